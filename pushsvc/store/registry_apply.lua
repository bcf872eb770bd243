-- Writes changes of devices: documents and every index, in one step, or nothing.
--
-- It takes place only where each document and each index entry that the changes were made from is still what it was.
-- It knows no rule of the registry; see registry_changes.py for those, and registry.py for the layout.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 most devices of a user; then for each change:
--          1 ordinal, or '' where the device is new          2 its document before, or ''
--          3 its document after, or '' where it is gone      4 digest of its id, where it is new or gone
--          5 the ordinal that the index knows under it, or '' where it is new
--          6 digest of the token that it loses, or ''        7 digest of the token that it gains, or ''
--          8 the ordinal that the index knows under that, or ''
--          9 digest of the user that it leaves, or ''       10 digest of the user that it joins, or ''
--         11 change of the number of active devices         12 label under which it was pruned, or ''
--         13 label under which it is pruned, or ''          14 at ms
--         15 number of topics that change, then for each: its name; 1 joined, -1 left, 0 neither; change of its count
-- Returns { 1 }; { 0 } where something is not what it was: read again; or { -1, place, .. }, the places from 0 of those
-- changes that would give a user too many devices.

local BLOCK = 128
local CONTAINER = 4096
local DENSE = CONTAINER / 8 -- bytes of a bitmap; a list of 2-byte numbers is shorter than that
local EMPTY = string.rep('\0', DENSE)

local prefix, most = ARGV[1], tonumber(ARGV[2])
local changes, at = {}, 3
while at <= #ARGV do
  changes[#changes + 1] = at
  at = at + 15 + 3 * tonumber(ARGV[at + 14])
end

local function bucket(kind, digest)
  return prefix .. kind .. string.format(':%02x%02x', string.byte(digest, 1, 2)), string.sub(digest, 3)
end

local function look_up(kind, digest)
  return redis.call('HGET', bucket(kind, digest)) or ''
end

local function block_of(n)
  return string.format('%sd:%d', prefix, math.floor(n / BLOCK))
end

local function text(n)
  return string.format('%d', n)
end

-- 1. Is everything what it was?

local joining, leaving = {}, {}
for _, c in ipairs(changes) do
  local n, gains, leaves, joins = ARGV[c], ARGV[c + 6], ARGV[c + 8], ARGV[c + 9]
  if n == '' then
    if look_up('i', ARGV[c + 3]) ~= ARGV[c + 4] then
      return { 0 }
    end
  elseif redis.call('LINDEX', block_of(n), 1 + n % BLOCK) ~= ARGV[c + 1] then
    return { 0 }
  end
  if gains ~= '' and look_up('k', gains) ~= ARGV[c + 7] then
    return { 0 }
  end
  if joins ~= '' then
    joining[joins] = (joining[joins] or 0) + 1
  end
  if leaves ~= '' then
    leaving[leaves] = (leaving[leaves] or 0) + 1
  end
end

local full = {}
for user, count in pairs(joining) do
  local _, had = string.gsub(look_up('u', user), '%d+', '')
  if had + count - (leaving[user] or 0) > most then
    full[user] = true
  end
end
if next(full) then
  local refused = { -1 }
  for place, c in ipairs(changes) do
    if full[ARGV[c + 9]] then
      refused[#refused + 1] = place - 1
    end
  end
  return refused
end

-- 2. Topics: a hash of containers, each the members among 4,096 ordinals; read and written once for all changes.

local containers, counts, left = {}, {}, {}

local function container(topic, number)
  local of_topic = containers[topic] or {}
  containers[topic] = of_topic
  of_topic[number] = of_topic[number] or redis.call('HGET', prefix .. 't:' .. topic, text(number)) or ''
  return of_topic
end

-- The bitmap with a bit set or cleared; the highest bit of a byte comes first, as with SETBIT.
local function with_bit(members, low, wanted)
  local position, bit = math.floor(low / 8) + 1, 2 ^ (7 - low % 8)
  local byte = string.byte(members, position)
  if math.floor(byte / bit) % 2 == wanted then
    return members
  end
  byte = byte + (wanted == 1 and bit or -bit)
  return string.sub(members, 1, position - 1) .. string.char(byte) .. string.sub(members, position + 1)
end

local function add(topic, n)
  local number, low = math.floor(n / CONTAINER), n % CONTAINER
  local of_topic = container(topic, number)
  local members = of_topic[number]
  if #members + 2 < DENSE then
    of_topic[number] = members .. struct.pack('>I2', low)
    return
  end
  if #members < DENSE then
    local bitmap = EMPTY
    for i = 1, #members, 2 do
      bitmap = with_bit(bitmap, (struct.unpack('>I2', members, i)), 1)
    end
    members = bitmap
  end
  of_topic[number] = with_bit(members, low, 1)
end

local function remove(topic, n)
  local number, low = math.floor(n / CONTAINER), n % CONTAINER
  local of_topic = container(topic, number)
  local members = of_topic[number]
  left[topic] = true
  if #members == DENSE then
    of_topic[number] = with_bit(members, low, 0)
    return
  end
  local wanted = struct.pack('>I2', low)
  for i = 1, #members, 2 do
    if string.sub(members, i, i + 1) == wanted then
      of_topic[number] = string.sub(members, 1, i - 1) .. string.sub(members, i + 2)
      return
    end
  end
end

-- 3. Users: a list of ordinals in one value, since most have one device.

local function join(user, n)
  local key, field = bucket('u', user)
  local list = redis.call('HGET', key, field)
  redis.call('HSET', key, field, list and list .. ',' .. text(n) or text(n))
end

local function leave(user, n)
  local key, field = bucket('u', user)
  local others = {}
  for other in string.gmatch(redis.call('HGET', key, field) or '', '%d+') do
    if tonumber(other) ~= n then
      others[#others + 1] = other
    end
  end
  if #others > 0 then
    redis.call('HSET', key, field, table.concat(others, ','))
  else
    redis.call('HDEL', key, field)
  end
end

-- 4. Tombstones: an ordered set under each label, and how many each has.

local function bury(label, n)
  redis.call('ZREM', prefix .. 'x:' .. label, text(n))
  if redis.call('HINCRBY', prefix .. 'x', label, -1) == 0 then
    redis.call('HDEL', prefix .. 'x', label)
  end
end

local function entomb(label, n, ms)
  redis.call('ZADD', prefix .. 'x:' .. label, ms, text(n))
  redis.call('HINCRBY', prefix .. 'x', label, 1)
end

-- 5. The changes. An index entry is taken out only where it is still this device's: another change may have taken it.

local living, active = {}, 0

local function forget(kind, digest, n)
  local key, field = bucket(kind, digest)
  if redis.call('HGET', key, field) == text(n) then
    redis.call('HDEL', key, field)
  end
end

local function append(document)
  local n = redis.call('HINCRBY', KEYS[1], 'next', 1) - 1
  if n % BLOCK == 0 then
    redis.call('RPUSH', block_of(n), 0)
  end
  redis.call('RPUSH', block_of(n), document)
  return n
end

for _, c in ipairs(changes) do
  local known, after, id = ARGV[c], ARGV[c + 2], ARGV[c + 3]
  local n = tonumber(known)
  if not n then
    n = append(after)
    local key, field = bucket('i', id)
    redis.call('HSET', key, field, text(n))
    living[block_of(n)] = (living[block_of(n)] or 0) + 1
  else
    redis.call('LSET', block_of(n), 1 + n % BLOCK, after)
    if after == '' then
      forget('i', id, n)
      living[block_of(n)] = (living[block_of(n)] or 0) - 1
    end
  end
  if ARGV[c + 5] ~= '' then
    forget('k', ARGV[c + 5], n)
  end
  if ARGV[c + 6] ~= '' then
    local key, field = bucket('k', ARGV[c + 6])
    redis.call('HSET', key, field, text(n))
  end
  if ARGV[c + 8] ~= '' then
    leave(ARGV[c + 8], n)
  end
  if ARGV[c + 9] ~= '' then
    join(ARGV[c + 9], n)
  end
  active = active + tonumber(ARGV[c + 10])
  if ARGV[c + 11] ~= '' then
    bury(ARGV[c + 11], n)
  end
  if ARGV[c + 12] ~= '' then
    entomb(ARGV[c + 12], n, ARGV[c + 13])
  end
  for t = c + 15, c + 14 + 3 * tonumber(ARGV[c + 14]), 3 do
    local topic, moved = ARGV[t], ARGV[t + 1]
    counts[topic] = (counts[topic] or 0) + tonumber(ARGV[t + 2])
    if moved == '1' then
      add(topic, n)
    elseif moved == '-1' then
      remove(topic, n)
    end
  end
end

-- 6. What was gathered.

if active ~= 0 then
  redis.call('HINCRBY', KEYS[1], 'active', active)
end
for topic, change in pairs(counts) do
  redis.call('HINCRBY', prefix .. 't:' .. topic, '#', change)
end
for topic, numbers in pairs(containers) do
  local key = prefix .. 't:' .. topic
  for number, members in pairs(numbers) do
    if members == '' or members == EMPTY then
      redis.call('HDEL', key, text(number))
    else
      redis.call('HSET', key, text(number), members)
    end
  end
  if left[topic] and redis.call('HLEN', key) == 1 then
    redis.call('DEL', key) -- its count alone
  end
end
for block, change in pairs(living) do
  local count = redis.call('LINDEX', block, 0) + change
  if count == 0 and redis.call('LLEN', block) == 1 + BLOCK then
    redis.call('DEL', block)
  else
    redis.call('LSET', block, 0, count)
  end
end
return { 1 }
