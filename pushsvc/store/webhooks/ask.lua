-- Schedules dead batches of a webhook for redelivery, and lets it begin at once, unless a process works on it already.
--
-- KEYS  1 ps:T:hook; 2 ps:T:hook:dead; 3 ps:T:hook:asked
-- ARGV  for each dead batch: its place in the order, its id; those that are gone meanwhile are left out
-- Returns how many were asked for.

local asked = 0
for at = 1, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[2], ARGV[at + 1]) == 1 then
    redis.call('ZADD', KEYS[3], ARGV[at], ARGV[at + 1])
    asked = asked + 1
  end
end
redis.call('HDEL', KEYS[1], 'off', 'fails', 'why', 'since')
if redis.call('HEXISTS', KEYS[1], 'own') == 0 then
  redis.call('HDEL', KEYS[1], 'until')
end
return asked
