-- Changes the record of a webhook, as long as no other process has taken it over from its owner.
--
-- `since` stands for as long as `why` does: the instant of the first failure of those that follow one another.
-- An owner whose lease has run out, and whose place is not taken, may still change it.
--
-- KEYS  1 ps:T:hook; 2 ps:T:hook:dead; 3 ps:T:hook:asked
-- ARGV  1 MessagePack of
--         { owner, whether it stays the owner, ms until others may have it, fields to set { name, value, .. },
--           fields to delete { name, .. }, dead batches to keep { id, batch, .. }, dead batches to drop { id, .. },
--           dead batches to ask for no more { id, .. }, dead batches to ask for { place in the order, id, .. } }
-- Returns 1, or 0 where it is another's.

local owner, stays, ms, set, delete, dead, drop, answered, ask = unpack(cmsgpack.unpack(ARGV[1]))
if redis.call('HGET', KEYS[1], 'own') ~= owner then
  return 0
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + ms), unpack(set))
if not stays then
  delete[#delete + 1] = 'own'
end
for _, field in ipairs(delete) do
  redis.call('HDEL', KEYS[1], field)
end
if redis.call('HEXISTS', KEYS[1], 'why') == 1 then
  redis.call('HSETNX', KEYS[1], 'since', string.format('%.0f', now))
else
  redis.call('HDEL', KEYS[1], 'since')
end
for at = 1, #dead, 2 do
  redis.call('HSET', KEYS[2], dead[at], dead[at + 1])
end
for _, id in ipairs(drop) do
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
end
for _, id in ipairs(answered) do
  redis.call('ZREM', KEYS[3], id)
end
for at = 1, #ask, 2 do
  redis.call('ZADD', KEYS[3], ask[at], ask[at + 1])
end
return 1
