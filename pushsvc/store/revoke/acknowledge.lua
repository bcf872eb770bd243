-- Record that a dispatcher has applied the revocations up to a place, and how many deliveries of the cancelled pushes
-- it has in flight: settle.lua subtracts those that it settles.
--
-- KEYS  1 ps:T:heard
-- ARGV  1 prefix `ps:T:`; 2 consumer; 3 place; then for each cancelled push: id, deliveries in flight
-- Returns 0 where this was recorded before.

if redis.call('HGET', KEYS[1], ARGV[2]) == ARGV[3] then
  return 0
end
for at = 4, #ARGV, 2 do
  local push = ARGV[1] .. 'p:' .. ARGV[at]
  if redis.call('HGET', push, 'st') == 'cancelled' then
    redis.call('HINCRBY', push, 'fi', ARGV[at + 1])
  end
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return 1
