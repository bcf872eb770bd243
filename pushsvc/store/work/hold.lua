-- Acquires, renews or releases a lock. It stays with its owner as long as the owner renews it in time.
--
-- KEYS  1 ps:lock:<name>
-- ARGV  1 owner; 2 lease ms; 0: give it back
-- Returns 1 where it is, or was, the owner's; 0 where it is another's.

local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
