-- Accepts pushes: each becomes a status hash and its entries in the lanes, whole or not at all.
--
-- A push whose id is known already is left alone, so that the caller may try again after an answer that was lost.
-- When memory is full the first write is refused before anything else is written.
-- Keys other than KEYS[1] are built from the prefix: they share its hash tag, and naming four of them a push would
-- cost more than writing them.
--
-- KEYS  1 ps:T:pending
-- ARGV  1 prefix `ps:T:`; 2 status TTL in ms; then for each push:
--         id, total, created at ms, number of chunks, and for each chunk: platform, lane, number of targets, blob
-- Returns the pending counters of the shard, flat: field, value, ...

local prefix, ttl = ARGV[1], ARGV[2]
local added = {}
local at = 3
while at <= #ARGV do
  local id, total, created, chunks = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  at = at + 4
  local push = prefix .. 'p:' .. id
  local new = redis.call('EXISTS', push) == 0
  if new then
    redis.call('HSET', push, 'n', total, 'st', total == '0' and 'done' or 'sending', 'at', created, 'up', created)
    redis.call('PEXPIRE', push, ttl)
  end
  for _ = 1, chunks do
    if new then
      local lane = ARGV[at] .. ':' .. ARGV[at + 1]
      redis.call('XADD', prefix .. 'q:' .. lane, '*', 'c', ARGV[at + 3], 'n', ARGV[at + 2])
      added[lane] = (added[lane] or 0) + ARGV[at + 2]
    end
    at = at + 4
  end
end
for lane, count in pairs(added) do
  redis.call('HINCRBY', KEYS[1], lane, count)
end
return redis.call('HGETALL', KEYS[1])
