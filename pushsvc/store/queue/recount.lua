-- Sets right what is counted as pending in lanes that are empty.
--
-- A failover may bring a server that is behind, or an empty one: what was counted on the old one ends on the new one,
-- and the counters stay off by so much. Of an empty lane nothing is pending but what waits for its retry.
--
-- KEYS  1 ps:T:pending
-- ARGV  1 prefix `ps:T:`; 2 most retries to count of a platform; then the platforms
-- Returns how many counters were wrong.

-- include: fence
-- include: waiting

local prefix, most, wrong = ARGV[1], tonumber(ARGV[2]), 0

local function set(field, count)
  if tonumber(redis.call('HGET', KEYS[1], field) or 0) ~= count then
    redis.call('HSET', KEYS[1], field, count)
    wrong = wrong + 1
  end
end

for at = 3, #ARGV do
  local platform = ARGV[at]
  local retries = prefix .. 'retry:' .. platform
  if redis.call('ZCARD', retries) <= most then
    local waiting, all = { urgent = 0, normal = 0, bulk = 0 }, 0
    for _, member in ipairs(redis.call('ZRANGE', retries, 0, -1)) do
      local lane, guard, count = parts_of(member)
      if lane and waiting[lane] then
        waiting[lane] = waiting[lane] + (guard == '' and count or select(2, read_guard(prefix, guard)))
        all = all + count
      end
    end
    for lane, count in pairs(waiting) do
      if redis.call('XLEN', prefix .. 'q:' .. platform .. ':' .. lane) == 0 then
        set(platform .. ':' .. lane, count)
      end
    end
    set(platform .. ':retry', all)
  end
end
if redis.call('ZCARD', prefix .. 'scheduled') == 0 then
  set('scheduled', 0)
end
return wrong
