-- Replaces a waiting retry by one with fewer targets, due at the same time, or deletes it where none is left.
--
-- KEYS  1 ps:T:retry:<platform>; 2 ps:T:pending
-- ARGV  1 platform; 2 member; 3 its replacement, or ''; 4 number of removed targets
-- Returns 1, or 0 where the member does not exist.

local due = redis.call('ZSCORE', KEYS[1], ARGV[2])
if not due then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[2])
if ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[1], due, ARGV[3])
end
if not string.find(ARGV[2], '^%a+@') then -- what a device may acknowledge is counted with its end
  redis.call('HINCRBY', KEYS[2], ARGV[1] .. ':retry', -ARGV[4])
end
return 1
