-- Writes a key without meaning, as a script and by each command that accepts a push, so that it is refused where pushes
-- are.

redis.call('SET', KEYS[1], 1) -- first, because a full memory refuses only a script that has written nothing yet
local writes = { { 'HSET', 'p', 1 }, { 'HINCRBY', 'p', 1 }, { 'RPUSH', 1 }, { 'ZADD', 1, 'p' }, { 'XADD', '*', 'p', 1 } }
for _, write in ipairs(writes) do
  redis.call('DEL', KEYS[1])
  redis.call(write[1], KEYS[1], unpack(write, 2))
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
