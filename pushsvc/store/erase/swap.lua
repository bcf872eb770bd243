-- Sets a field of a hash, or deletes it, only where it is still what it was.
--
-- KEYS  1 the hash
-- ARGV  1 field; 2 its value, or '' where it is not there; 3 its value from now on, or '' to delete it
-- Returns 1, or 0 where it was something else.

if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
  return 0
end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return 1
