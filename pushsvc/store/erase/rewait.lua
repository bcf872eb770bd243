-- Lets a retry wait with fewer targets, for the same time, or takes it out where none is left.
--
-- KEYS  1 ps:T:retry:<platform>; 2 ps:T:pending
-- ARGV  1 platform; 2 member; 3 the member in its place, or ''; 4 how many targets fewer
-- Returns 1, or 0 where the member is gone.

local due = redis.call('ZSCORE', KEYS[1], ARGV[2])
if not due then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[2])
if ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[1], due, ARGV[3])
end
redis.call('HINCRBY', KEYS[2], ARGV[1] .. ':retry', -ARGV[4])
return 1
