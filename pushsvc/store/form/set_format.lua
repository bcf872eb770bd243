-- Sets the format of the store, only where it still is what its caller has read.
--
-- KEYS  1 ps:format
-- ARGV  1 the format that was read, or '' where there was none; 2 the new one

if (redis.call('GET', KEYS[1]) or '') == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2])
end
