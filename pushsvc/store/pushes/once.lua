-- Accepts the pushes of one call together with the record of its idempotency key, or finds the record of an earlier
-- call.
--
-- Record and pushes are one step in one slot: no crash and no other process can come between them. Where the answer to
-- this very call was lost and the call is repeated, its first push exists already, and the call is not treated as a
-- repeat of another. Without pushes it only reads the record.
--
-- KEYS  1 ps:T:pending; 2 ps:T:i:<digest>
-- ARGV  1 prefix `ps:T:`; 2 record TTL in ms; 3 record; then the pushes, see enqueue.lua
-- Returns { the earlier record, or false where this call was accepted; pending counters, flat }

-- include: enqueue

local kept = redis.call('GET', KEYS[2])
if #ARGV < 4 then
  return { kept, redis.call('HGETALL', KEYS[1]) }
end
if kept and redis.call('EXISTS', ARGV[1] .. 'p:' .. ARGV[4]) == 0 then
  return { kept, redis.call('HGETALL', KEYS[1]) }
end
if not kept then
  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
  enqueue(ARGV[1], 4)
end
return { false, redis.call('HGETALL', KEYS[1]) }
