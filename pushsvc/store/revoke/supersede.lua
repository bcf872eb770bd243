-- Records which pushes with `collapse` the provider has accepted, and which wait: see supersession.py.
--
-- An order is an instant and a push id in one string, which compares as time goes. A digest of which something waits has
-- a sorted set: with score -1 the newest order that was accepted, behind an `a`, and each order that waits, with score 0,
-- or since its holder was told of a later one with that one's instant. So no step reads all that waits, of which one device
-- may have thousands. Nobody knows what else waits in a lane, so whatever is accepted is also kept in `latest`: two hashes,
-- of which the younger is written, and takes the place of the older one when it is full or old; `@` is when it began. May
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
local NAMES = 1000 -- digests of one command

local prefix, now = ARGV[1], tonumber(ARGV[2])
local accepted, waiting, over = unpack(cmsgpack.unpack(ARGV[3]))
local found, newest_of = {}, {}
local latest = {} -- digest -> the newest order of it that was accepted, or false

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

-- Looks up the newest order that is known of each digest of a list, which has one in every `step` places.
local function look_up(list, step)
  local names = {}
  for at = 1, #list, step do
    names[#names + 1] = list[at]
  end
  for first = 1, #names, NAMES do
    local last = math.min(first + NAMES - 1, #names)
    local own = redis.call('HMGET', KEYS[1], unpack(names, first, last))
    local before = redis.call('HMGET', KEYS[2], unpack(names, first, last))
    for at = 1, #own do
      local one, other = own[at], before[at]
      latest[names[first + at - 1]] = other and (not one or one < other) and other or one
    end
  end
end

-- The newest order of a digest that was accepted while something waited, and one that waits, or nothing.
local function known(key)
  local newest, order = unpack(redis.call('ZRANGE', key, 0, 1))
  if newest and string.sub(newest, 1, 1) ~= 'a' then
    return nil, newest
  end
  return newest and string.sub(newest, 2), order
end

-- An order waits no more. Returns whether another does, and the newest that was accepted: where none waits nothing is kept.
local function leave(key, order)
  redis.call('ZREM', key, order)
  local newest, other = known(key)
  if newest and not other then
    redis.call('DEL', key)
  end
  return other, newest
end

-- The score of an order whose holder was told of a later one.
local function told_of(later)
  return tonumber(string.sub(later, 1, 14)) + 1
end

-- Whether any that waits is older than an order that was accepted, and its holder is to be told.
local function behind(key, order)
  local score, most = told_of(order), 1
  repeat
    local told = { 'ZADD', key }
    for _, other in ipairs(redis.call('ZRANGEBYSCORE', key, 0, 0, 'LIMIT', 0, most)) do
      if other < order then
        told[#told + 1], told[#told + 2] = score, other
      end
    end
    local all = #told == 2 + 2 * most
    if #told > 2 then
      redis.call(unpack(told))
    end
    most = 100
  until not all
  return redis.call('ZCOUNT', key, score, score) > 0
end

if #accepted > 0 then
  turn_over()
end
look_up(accepted, 2)
local changed = {}
for at = 1, #accepted, 2 do
  local digest, order = accepted[at], accepted[at + 1]
  if not latest[digest] or latest[digest] < order then
    latest[digest] = order
    changed[#changed + 1], changed[#changed + 2] = digest, order
  end
  local key = prefix .. 'w:' .. digest
  local waits, newest = leave(key, order)
  if waits then
    if not newest or newest < order then
      if newest then
        redis.call('ZREM', key, 'a' .. newest)
      end
      redis.call('ZADD', key, -1, 'a' .. order)
    end
    if behind(key, order) then
      found[#found + 1] = (at - 1) / 2
    end
  end
end

for first = 1, #changed, 2 * NAMES do
  redis.call('HSET', KEYS[1], unpack(changed, first, math.min(first + 2 * NAMES - 1, #changed)))
end

look_up(waiting, 3)
for at = 1, #waiting, 3 do
  local digest, order, span = waiting[at], waiting[at + 1], waiting[at + 2]
  local key = prefix .. 'w:' .. digest
  local newest, other = known(key)
  local is_first = not newest and not other
  newest = newest or latest[digest]
  if newest then
    redis.call('ZADD', key, -1, 'a' .. newest, order < newest and told_of(newest) or 0, order)
  else
    redis.call('ZADD', key, 0, order)
  end
  if is_first or redis.call('PTTL', key) < span then
    redis.call('PEXPIRE', key, span)
  end
  newest_of[#newest_of + 1] = newest or ''
end

for at = 1, #over, 2 do
  leave(prefix .. 'w:' .. over[at], over[at + 1])
end
return { found, newest_of }
