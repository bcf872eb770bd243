-- Records which pushes with `collapse` the provider has accepted, and which wait: see supersession.py.
--
-- An order is an instant and a push id in one string, which compares as time goes. A delivery that waits has a hash
-- with the newest accepted order `a`, and the oldest `o` and newest `n` that wait. May run twice: the same is found. Nobody
-- knows beforehand that a delivery will wait, so whatever is accepted is also kept for a while in `latest`.
--
-- KEYS  1 ps:T:latest:<slot>, of the present slot
-- ARGV  1 prefix `ps:T:`; 2 number of the slot; 3 how many slots count; 4 ms for which one is kept; 5 MessagePack of
--         { accepted, waiting }
--         accepted: { digest, order, digest, order, .. }
--         waiting:  { digest, order, ms for which it may wait, .. }
-- Returns the places (from 0) of what was accepted with something older waiting behind it.

-- include: latest

local prefix, slot = ARGV[1], tonumber(ARGV[2])
local accepted, waiting = unpack(cmsgpack.unpack(ARGV[5]))
local found = {}

-- The key of a digest, its newest accepted order, and the oldest and newest that wait: none where all are behind it,
-- since whoever holds these was told when it was accepted.
local function waits(digest, order)
  local key = prefix .. 'c:' .. digest
  local newest, oldest_waits, newest_waits = unpack(redis.call('HMGET', key, 'a', 'o', 'n'))
  if newest and newest_waits and newest_waits <= newest and order ~= newest then
    redis.call('HDEL', key, 'o', 'n')
    oldest_waits, newest_waits = nil, nil
  end
  return key, newest, oldest_waits, newest_waits
end

for at = 1, #accepted, 2 do
  local digest, order = accepted[at], accepted[at + 1]
  local last = redis.call('HGET', KEYS[1], digest)
  if not last or last < order then
    redis.call('HSET', KEYS[1], digest, order)
  end
  local key, newest, oldest_waits = waits(digest, order)
  if oldest_waits and oldest_waits < order then
    found[#found + 1] = (at - 1) / 2
  end
  if (newest or oldest_waits) and (not newest or newest < order) then
    redis.call('HSET', key, 'a', order)
  end
end
if #accepted > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end

for at = 1, #waiting, 3 do
  local digest, order, span = waiting[at], waiting[at + 1], waiting[at + 2]
  local key, newest, oldest_waits, newest_waits = waits(digest, order)
  newest = newest or latest(prefix, slot, tonumber(ARGV[3]), digest)
  if newest then
    redis.call('HSET', key, 'a', newest)
  end
  if not newest or newest <= order then
    redis.call('HSET', key, 'o', oldest_waits and oldest_waits < order and oldest_waits or order,
      'n', newest_waits and newest_waits > order and newest_waits or order)
  end
  if redis.call('PTTL', key) < span then
    redis.call('PEXPIRE', key, span)
  end
end
return found
