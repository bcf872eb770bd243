-- Removes devices from those that contents of pushes are for, and the contents that are for no other one.
--
-- KEYS  ps:T:live:<id> of each content
-- ARGV  digests of the devices' ids

for _, key in ipairs(KEYS) do
  if redis.call('HDEL', key, unpack(ARGV)) > 0 and redis.call('HLEN', key) == 1 then
    redis.call('DEL', key)
  end
end
