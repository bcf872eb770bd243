-- Deletes the content of a push that nothing names any more: no dead letter, and no delivery that is open.
--
-- KEYS  1 ps:T:p:<id>; 2 ps:T:v:<id>
-- ARGV  1 prefix `ps:T:`
-- Returns 1, or 0 where something waits for it, or nobody knows: then it goes at the end of its lifetime.

-- include: retire

if tonumber(redis.call('HGET', KEYS[2], '#') or 0) > 0 then
  return 0
end
local state, total = unpack(redis.call('HMGET', KEYS[1], 'st', 'n'))
if not state or state == 'expanding' or state == 'scheduled' or ended_of_push(KEYS[1]) ~= tonumber(total) then
  return 0
end
return redis.call('DEL', KEYS[2])
