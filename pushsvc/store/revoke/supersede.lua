-- Records which pushes with `collapse` the provider has accepted, and which wait: see supersession.py.
--
-- An order is an instant and a push id in one string, which compares as time goes. A digest of which something waits has
-- a sorted set: with score -1 the newest order that was accepted, behind an `a`, and each order that waits, with score 1
-- while a dispatcher has it and nothing newer is known, else 0. So no step reads all that waits, of which one device may
-- have thousands. Behind the order of what a dispatcher has stands its name: one that was taken for dead and answers late
-- leaves alone what another has by now, and who takes over from a dead one removes what is left of it. It is unknown
-- what else waits in a lane, so whatever is accepted is also kept in `latest`: two hashes, of which the younger is written, and
-- takes the place of the older one when it is full or old; `@` is when it began. May run twice: the same is found.
--
-- An order further ahead of the present than clocks differ is of a time before the clock was set back. It is unknown which
-- others are later, so it is forgotten where it was accepted: else the later ones would end until the clock catches
-- up with it. Of a `collapse` alone it stays: it only says that targets need a look.
--
-- A broadcast waits under the digest of its `collapse` alone, by its order and the name of its entry. The newest order of a
-- `collapse` that was accepted for any target is in `latest` as well: where that is not newer, no target needs a look.
--
-- KEYS  1 ps:T:latest; 2 ps:T:latest:before
-- ARGV  1 prefix `ps:T:`; 2 now ms; 3 MessagePack of { accepted, waiting, over, leaving }; 4 the dispatcher that has what
--       waits from now on, or an empty string
--         accepted: { { digest of the collapse, order, { digest, .. } }, .. }
--         waiting:  { digest, order, ms for which it may wait, .. }
--         over:     { digest, order, .. } of what has ended otherwise
--         leaving:  { dispatcher, .. } of those that have none of this any more
-- Returns the places (from 0), over all digests that were accepted, of those with something older at a dispatcher, and for
-- each that waits the newest order that was accepted, or an empty string.

local MOST, LEAST, LONGEST = 50000, 45000, 43200000 -- digests; ms: more than a request and a take-over take, and at most
local NAMES = 1000 -- digests of one command
local HELD = '1' -- score
local AHEAD = 1000 -- ms

local prefix, now, holder = ARGV[1], tonumber(ARGV[2]), ARGV[4]
local horizon = string.format('%014.0f', now + AHEAD) -- what is behind it is ahead of the present
local accepted, waiting, over, leaving = unpack(cmsgpack.unpack(ARGV[3]))
local found, newest_of = {}, {}
local latest = {} -- digest -> the newest order of it that was accepted, or false
local alone = {} -- digests of a `collapse` alone

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

-- The order under this digest in a hash, unless it is ahead of the present.
local function heeded(key, digest, order)
  if order and order > horizon and not alone[digest] then
    redis.call('HDEL', key, digest)
    return false
  end
  return order
end

-- Looks up the newest order that is known of each of these digests.
local function look_up(names)
  for first = 1, #names, NAMES do
    local last = math.min(first + NAMES - 1, #names)
    local own = redis.call('HMGET', KEYS[1], unpack(names, first, last))
    local before = redis.call('HMGET', KEYS[2], unpack(names, first, last))
    for at = 1, #own do
      local digest = names[first + at - 1]
      local one, other = heeded(KEYS[1], digest, own[at]), heeded(KEYS[2], digest, before[at])
      latest[digest] = other and (not one or one < other) and other or one
    end
  end
end

local function key_of(digest)
  return prefix .. 'w:' .. digest
end

-- The newest order of a digest that was accepted while something waited, and one that waits, or nothing.
local function known(key)
  local newest, order = unpack(redis.call('ZRANGE', key, 0, 1))
  if newest and string.sub(newest, 1, 1) ~= 'a' then
    return nil, newest
  end
  if newest and newest > 'a' .. horizon then
    redis.call('ZREM', key, newest)
    return nil, order
  end
  return newest and string.sub(newest, 2), order
end

-- An order waits no more, neither for its time nor where it was. Returns how often it did.
local function remove(key, order)
  local count = redis.call('ZREM', key, order, order .. ' ' .. (leaving[1] or ''))
  for n = 2, #leaving do
    count = count + redis.call('ZREM', key, order .. ' ' .. leaving[n])
  end
  return count
end

-- Some order waits no more. Returns as `known`: where none waits nothing is kept.
local function left(key)
  local newest, order = known(key)
  if newest and not order then
    redis.call('DEL', key)
  end
  return newest, order
end

-- Keeps the newest order that was accepted in the place of one before it.
local function keep(key, before, newest)
  if before then
    redis.call('ZREM', key, 'a' .. before)
  end
  redis.call('ZADD', key, -1, 'a' .. newest)
end

-- Whether a dispatcher has anything older than an order that was accepted.
local function is_behind(key, order)
  local oldest = redis.call('ZRANGEBYSCORE', key, HELD, HELD, 'LIMIT', 0, 1)[1]
  return oldest and oldest < order
end

-- An order was accepted. Returns whether a dispatcher has an older one.
local function accept(key, order)
  local newest, other = left(key)
  if not other or order > horizon then
    return false
  end
  if not newest or newest < order then
    keep(key, newest, order)
  end
  return is_behind(key, order)
end

-- Whether something waits of any of these digests.
local function any_waits(digests)
  for first = 1, #digests, NAMES do
    local names = {}
    for at = first, math.min(first + NAMES - 1, #digests) do
      names[#names + 1] = key_of(digests[at])
    end
    if redis.call('EXISTS', unpack(names)) > 0 then
      return true
    end
  end
  return false
end

local function accept_all()
  local collapses, digests, orders, unsure = {}, {}, {}, {}
  for g = 1, #accepted do
    collapses[g], alone[accepted[g][1]] = accepted[g][1], true
  end
  look_up(collapses)
  for g = 1, #accepted do
    local collapse, order, own = unpack(accepted[g])
    local newest = latest[collapse]
    for at = 1, #own do
      digests[#digests + 1], orders[#orders + 1] = own[at], order
      if newest and newest > order then
        unsure[#unsure + 1] = own[at]
      end
    end
  end
  look_up(unsure)
  local waits = any_waits(digests)
  if waits then
    for at = 1, #digests do
      remove(key_of(digests[at]), orders[at])
    end
    waits = any_waits(digests)
  end
  local broadcasts, place = any_waits(collapses), 0
  for g = 1, #accepted do
    local collapse, order, own = unpack(accepted[g])
    local all = broadcasts and order <= horizon and is_behind(key_of(collapse), order)
    for at = 1, #own do
      if waits and accept(key_of(own[at]), order) or all then
        found[#found + 1] = place
      end
      place = place + 1
    end
    digests[#digests + 1], orders[#orders + 1] = collapse, order
  end
  local touched, changed = {}, {}
  for at = 1, #digests do
    local digest, order = digests[at], orders[at]
    if order <= horizon and (not latest[digest] or latest[digest] < order) then
      latest[digest] = order
    end
    touched[digest] = latest[digest] and true or nil
  end
  for digest in pairs(touched) do -- also where it is older, so that it stays as long as what it was accepted with
    changed[#changed + 1], changed[#changed + 2] = digest, latest[digest]
  end
  for first = 1, #changed, 2 * NAMES do
    redis.call('HSET', KEYS[1], unpack(changed, first, math.min(first + 2 * NAMES - 1, #changed)))
  end
end

if #accepted > 0 then
  turn_over()
  accept_all()
end

local names = {}
for at = 1, #waiting, 3 do
  names[#names + 1] = waiting[at]
  alone[waiting[at]] = string.find(waiting[at + 1], ' ', 1, true) ~= nil -- the order of a broadcast has its entry behind it
end
look_up(names)
for at = 1, #waiting, 3 do
  local digest, order, span = waiting[at], waiting[at + 1], waiting[at + 2]
  local key = key_of(digest)
  local before, other = known(key)
  local newest = before
  if latest[digest] and (not before or before < latest[digest]) then
    newest = latest[digest]
    keep(key, before, newest)
  end
  if other then
    remove(key, order)
  end
  if holder == '' then
    redis.call('ZADD', key, 0, order)
  else
    redis.call('ZADD', key, newest and order < newest and 0 or HELD, order .. ' ' .. holder)
  end
  if not before and not other or redis.call('PTTL', key) < span then
    redis.call('PEXPIRE', key, span)
  end
  newest_of[#newest_of + 1] = newest or ''
end

for at = 1, #over, 2 do
  local key = key_of(over[at])
  if remove(key, over[at + 1]) > 0 then
    left(key)
  end
end
return { found, newest_of }
