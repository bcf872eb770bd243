-- Refuses the tokens of devices that were issued before now, and returns the connections that are to be ended. Nothing
-- is sent there any more, and a gateway which misses the message finds it out when it compares its connections. Until a
-- gateway has confirmed the end (live_disconnect.lua), a repeat finds the same connection again.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 now ms; 3 the oldest revocation that is kept, ms; then the digests of the devices' ids
-- Returns for each { connection, gateway }, or { 0, '' }

-- include: live_stream

local prefix, now = ARGV[1], tonumber(ARGV[2])
local answer, key = {}, prefix .. 'refused'
call('ZREMRANGEBYSCORE', key, '-inf', '(' .. ARGV[3])
for i = 4, #ARGV do
  local last = tonumber(call('ZSCORE', key, ARGV[i]) or 0)
  if last < now then
    call('ZADD', key, ARGV[2], ARGV[i])
  end
  local n = ordinal_of(prefix, ARGV[i])
  local s = stream_at(prefix, n)
  local connection, _, gateway = connection_of(prefix, s or {}, now)
  answer[#answer + 1] = { connection, gateway }
  if s and s.gateway and s.since ~= CUT then
    s.since = CUT
    write_stream(prefix, n, format_stream(s))
  end
end
return answer
