-- Which of these commands Redis' access list forbids to the caller, on a key of ours.
--
-- A script that is stopped by it half-way leaves what it had written until then, so this is asked before. Each command
-- is tried with arguments of no meaning, which are all the key of no meaning. (`redis.acl_check_cmd` would answer
-- without a trial, but Redis 7.0.15 and Valkey 9.1.2 crash where it is asked about an EVAL without arguments.)
--
-- KEYS  1 ps:probe
-- ARGV  names of commands that may stand in a script; one with a subcommand as `XGROUP|CREATE`
-- Returns those that are forbidden.

local forbidden = {}
for _, name in ipairs(ARGV) do
  local info = redis.call('COMMAND', 'INFO', name)[1]
  if info then
    local words = {}
    for word in name:gmatch('[^|]+') do
      words[#words + 1] = word
    end
    while #words < math.abs(info[2]) do
      words[#words + 1] = KEYS[1]
    end
    local answer = redis.pcall(unpack(words))
    local fault = type(answer) == 'table' and answer.err
    if fault and (fault:find('permission') or fault:find("can't run") or fault:find("can't access")) then
      forbidden[#forbidden + 1] = name
    end
  end
end
redis.pcall('DEL', KEYS[1])
return forbidden
