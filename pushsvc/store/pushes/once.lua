-- Accepts the pushes of one call together with the record of its idempotency key, or finds the record of an earlier
-- call.
--
-- Record and pushes are one step in one slot: no crash and no other process can come between them. Where the answer to
-- this very call was lost and the call is repeated, its first push exists already, and the call is not treated as a
-- repeat of another. Without pushes it only reads the record.
--
-- KEYS  1 ps:T:pending; 2 ps:T:i:<digest>
-- ARGV  1 prefix `ps:T:`; 2 '' or what this process reads of it at once, see handing.lua; 3 record TTL in ms; 4 record;
--       then the pushes, see enqueue.lua
-- Returns { the earlier record, or false where this call was accepted; pending counters, flat; what was read, see
--           handing.lua }

-- include: enqueue
-- include: reading
-- include: handing

local kept, added = redis.call('GET', KEYS[2]), nil
if #ARGV < 5 then
  return { kept, redis.call('HGETALL', KEYS[1]), false }
end
if kept and redis.call('EXISTS', ARGV[1] .. 'p:' .. ARGV[5]) == 0 then
  return { kept, redis.call('HGETALL', KEYS[1]), false }
end
if not kept then
  redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[3])
  added = enqueue(ARGV[1], 5)
end
return { false, redis.call('HGETALL', KEYS[1]), hand_over(ARGV[2], added) }
