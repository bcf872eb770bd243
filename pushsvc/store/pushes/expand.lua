-- Takes one step in the expansion of a push: the deliveries of a page of its audience are put into their lanes, the
-- total of the push grows, and the expansion moves to the next page. All of it or nothing.
--
-- It takes place only where the number of steps taken is the one that its caller has read: when two processes work on
-- the same push, because one was assumed dead, the later step fails and its process stops. A cancel deletes the record,
-- so that a cancelled push takes no further step. The indexes in the encoded chunks continue from the push's total,
-- which the number of steps guarantees. A step ends what was recorded of failures.
--
-- KEYS  1 ps:T:pending; 2 ps:T:p:<id>; 3 ps:T:x:<id>; 4 ps:T:expansions:<lane>
-- ARGV  1 prefix `ps:T:`; 2 push id; 3 now ms; 4 status TTL ms; 5 dead-letter TTL ms; 6 steps read; 7 next cursor;
--       8 1 for the last page; 9 lease ms; then for each chunk: platform, lane, number of targets, blob
-- Returns the deliveries of the push so far, or -1 where the step did not take place.

-- include: retire

local id, now = ARGV[2], ARGV[3]
if redis.call('HGET', KEYS[3], 'step') ~= ARGV[6] then
  return -1
end

local added, found = {}, 0
for at = 10, #ARGV, 4 do
  local lane, count = ARGV[at] .. ':' .. ARGV[at + 1], tonumber(ARGV[at + 2])
  redis.call('XADD', ARGV[1] .. 'q:' .. lane, '*', 'c', ARGV[at + 3], 'n', count)
  added[lane] = (added[lane] or 0) + count
  found = found + count
end
for lane, count in pairs(added) do
  redis.call('HINCRBY', KEYS[1], lane, count)
end

local total = redis.call('HINCRBY', KEYS[2], 'n', found)
if ARGV[8] ~= '1' then
  redis.call('HSET', KEYS[2], 'st', 'expanding', 'up', now)
  redis.call('HSET', KEYS[3], 'step', ARGV[6] + 1, 'cursor', ARGV[7])
  redis.call('HDEL', KEYS[3], 'faults', 'failed', 'why')
  redis.call('ZADD', KEYS[4], 'XX', now + ARGV[9], id)
else
  local over = ended_of_push(KEYS[2])
  redis.call('HSET', KEYS[2], 'st', over == total and 'done' or 'sending', 'up', now)
  redis.call('DEL', KEYS[3])
  redis.call('ZREM', KEYS[4], id)
  if over == total then
    retire(ARGV[1], id, true, ARGV[4], ARGV[5])
  end
end
return total
