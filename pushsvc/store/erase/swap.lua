-- Sets or deletes a field of a hash, only where it still has the expected value. A repeat, whose first answer was lost,
-- answers the same.
--
-- KEYS  1 the hash
-- ARGV  1 field; 2 its expected value, or '' where it must not exist; 3 its new value, or '' to delete it
-- Returns 1, or 0 where it has another value than the new one.

local present = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if present == ARGV[3] then
  return 1
end
if present ~= ARGV[2] then
  return 0
end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return 1
