-- Records which pushes with `collapse` the provider has accepted, and which wait: see supersession.py.
--
-- An order is an instant and a push id in one string, which compares as time goes. A digest of which something waits has
-- a hash: `a` the newest order that was accepted, and for each order that waits the one of which its holder was told, or
-- an empty string. Nobody knows what else waits in a lane, so whatever is accepted is also kept in `latest`: two hashes, of
-- which the younger is written, and takes the place of the older one when it is full or old; `@` is when it began. May
-- run twice: the same is found.
--
-- KEYS  1 ps:T:latest; 2 ps:T:latest:before
-- ARGV  1 prefix `ps:T:`; 2 now ms; 3 MessagePack of { accepted, waiting, over }
--         accepted: { digest, order, digest, order, .. }
--         waiting:  { digest, order, ms for which it may wait, .. }
--         over:     { digest, order, .. } of what has ended otherwise
-- Returns the places (from 0) of what was accepted with something older waiting behind it, and for each that waits the
-- newest order that was accepted, or an empty string.

local MOST, LEAST, LONGEST = 50000, 45000, 43200000 -- digests; ms: more than a request and a take-over take, and at most

local prefix, now = ARGV[1], tonumber(ARGV[2])
local accepted, waiting, over = unpack(cmsgpack.unpack(ARGV[3]))
local found, newest_of = {}, {}

local function turn_over()
  local since = redis.call('HGET', KEYS[1], '@')
  local age = since and math.abs(now - since) or LONGEST
  if age < LONGEST and (age < LEAST or redis.call('HLEN', KEYS[1]) < MOST) then
    return
  end
  if since then
    redis.call('UNLINK', KEYS[2])
    redis.call('RENAME', KEYS[1], KEYS[2])
    redis.call('PEXPIRE', KEYS[2], 2 * LONGEST)
  end
  redis.call('HSET', KEYS[1], '@', now)
  redis.call('PEXPIRE', KEYS[1], 2 * LONGEST)
end

local function latest(digest)
  local own, before = redis.call('HGET', KEYS[1], digest), redis.call('HGET', KEYS[2], digest)
  return before and (not own or own < before) and before or own
end

-- The key of a digest, the newest order that was accepted while something waited, and what waits.
local function known(digest)
  local key, newest, orders = prefix .. 'c:' .. digest, nil, {}
  local fields = redis.call('HGETALL', key)
  for at = 1, #fields, 2 do
    if fields[at] == 'a' then
      newest = fields[at + 1]
    else
      orders[fields[at]] = fields[at + 1]
    end
  end
  return key, newest, orders
end

-- An order waits no more. Returns whether another does; where none does nothing is kept.
local function leave(key, orders, order)
  local waited = orders[order]
  orders[order] = nil
  if next(orders) then
    redis.call('HDEL', key, order)
    return true
  elseif waited then
    redis.call('DEL', key)
  end
end

-- Whether any of these is older than an order that was accepted, and its holder is to be told.
local function behind(key, orders, order)
  local any = false
  for other, told in pairs(orders) do
    if other < order and (told == '' or told == order) then
      redis.call('HSET', key, other, order)
      any = true
    end
  end
  return any
end

if #accepted > 0 then
  turn_over()
end
for at = 1, #accepted, 2 do
  local digest, order = accepted[at], accepted[at + 1]
  local last = redis.call('HGET', KEYS[1], digest)
  if not last or last < order then
    redis.call('HSET', KEYS[1], digest, order)
  end
  local key, newest, orders = known(digest)
  if leave(key, orders, order) then
    if not newest or newest < order then
      redis.call('HSET', key, 'a', order)
    end
    if behind(key, orders, order) then
      found[#found + 1] = (at - 1) / 2
    end
  end
end

for at = 1, #waiting, 3 do
  local digest, order, span = waiting[at], waiting[at + 1], waiting[at + 2]
  local key = prefix .. 'c:' .. digest
  local newest = redis.call('HGET', key, 'a') or latest(digest)
  redis.call('HSET', key, order, newest and order < newest and newest or '')
  if newest then
    redis.call('HSET', key, 'a', newest)
  end
  if redis.call('PTTL', key) < span then
    redis.call('PEXPIRE', key, span)
  end
  newest_of[#newest_of + 1] = newest or ''
end

for at = 1, #over, 2 do
  local key, _, orders = known(over[at])
  leave(key, orders, over[at + 1])
end
return { found, newest_of }
