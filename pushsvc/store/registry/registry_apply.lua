-- Writes changes of devices: documents and every index, in one step, or nothing.
--
-- It takes place only where each document and each index entry that the changes were made from is still what it was.
-- It knows no rule of the registry; see changes.py for those, and registry.py for the layout.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 most devices of a user; 3 now ms; 4 marks of tokens to revoke, or ''; 5 lifetime of a
--       revocation ms; then for each change:
--          1 ordinal, or '' where the device is new          2 its document before, or ''
--          3 its document after, or '' where it is gone
--          4 digest of the id that it loses, or ''           5 digest of the id that it gains, or ''
--          6 the ordinal that the index knows under that, or ''
--          7 digest of the token that it loses, or ''        8 digest of the token that it gains, or ''
--          9 the ordinal that the index knows under that, or ''
--         10 digest of the user that it leaves, or ''       11 digest of the user that it joins, or ''
--         12 change of the number of active devices         13 label under which it was pruned, or ''
--         14 label under which it is pruned, or ''          15 at ms
--         16 what becomes of its stream: '' nothing, `renew` another begins, `prune` another begins unless the device
--            is connected, which is a sign of life then
--         17 number of topics that change, then for each: its name; 1 joined, -1 left, 0 neither; change of its count
-- Returns { 1, { gateway, connection, 1 if its id is that of another device now, .. } with the connections of streams
-- that ended, { place of the change, index, platform, facts, .. } with what had not been acknowledged of streams that
-- ended }; { 0 } where something is not what it was: read again; or { -1, place, .. }, the places from 0 of those
-- changes that would give a user too many devices.

-- include: live_stream
-- include: document
-- include: device_seen
-- layout: BLOCK CONTAINER DENSE

local EMPTY = string.rep('\0', DENSE)

local prefix, most, now = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local changes, at, given = {}, 6, {}
while at <= #ARGV do
  changes[#changes + 1] = at
  given[ARGV[at + 4]] = true
  at = at + 17 + 3 * tonumber(ARGV[at + 16])
end

-- The hash that a digest lies in, and its field.
local function bucket(kind, digest)
  return format('%s%s:%02x%02x', prefix, kind, byte(digest, 1, 2)), sub(digest, 3)
end

local function look_up(kind, digest)
  return call('HGET', bucket(kind, digest)) or ''
end

local function text(n)
  return format('%d', n)
end

local function block_of(n)
  return format('%sd:%d', prefix, floor(n / BLOCK))
end

-- 1. Is everything what it was?

local lists, growth, full = {}, {}, {} -- of users: their ordinals, and by how many they grow

local function move(user, by)
  if user ~= '' then
    lists[user] = lists[user] or look_up('u', user)
    growth[user] = (growth[user] or 0) + by
  end
end

for _, c in ipairs(changes) do
  local n, id, gains = ARGV[c], ARGV[c + 4], ARGV[c + 7]
  if n ~= '' and call('LINDEX', block_of(n), 1 + n % BLOCK) ~= ARGV[c + 1] then
    return { 0 }
  end
  if id ~= '' and look_up('i', id) ~= ARGV[c + 5] then
    return { 0 }
  end
  if gains ~= '' and look_up('k', gains) ~= ARGV[c + 8] then
    return { 0 }
  end
  move(ARGV[c + 9], -1)
  move(ARGV[c + 10], 1)
end
for user, by in pairs(growth) do
  local _, had = string.gsub(lists[user], '%d+', '')
  full[user] = by > 0 and had + by > most or nil
end
if next(full) then
  local refused = { -1 }
  for place, c in ipairs(changes) do
    if full[ARGV[c + 10]] then
      refused[#refused + 1] = place - 1
    end
  end
  return refused
end

-- 2. Topics: a hash of containers, each the members among 4,096 ordinals; read and written once for all changes. In
-- between, a bitmap is a table of its bytes, and a list what it is.

local containers, counts, left, joined = {}, {}, {}, {}

local function open_container(topic, number)
  local of_topic = containers[topic] or {}
  containers[topic] = of_topic
  local members = of_topic[number]
  if not members then
    members = call('HGET', prefix .. 't:' .. topic, text(number)) or ''
    members = #members == DENSE and { byte(members, 1, DENSE) } or members
    of_topic[number] = members
  end
  return of_topic, members
end

-- The highest bit of a byte comes first, as with SETBIT.
local function set_bit(bytes, low, wanted)
  local position, bit = floor(low / 8) + 1, 2 ^ (7 - low % 8)
  if floor(bytes[position] / bit) % 2 ~= wanted then
    bytes[position] = bytes[position] + (wanted == 1 and bit or -bit)
  end
end

local function add(topic, n)
  joined[topic] = true
  local number, low = floor(n / CONTAINER), n % CONTAINER
  local of_topic, members = open_container(topic, number)
  if type(members) == 'string' then
    if #members + 2 < DENSE then
      of_topic[number] = members .. pack('>I2', low)
      return
    end
    local bytes = { byte(EMPTY, 1, DENSE) }
    for i = 1, #members, 2 do
      set_bit(bytes, (unpack_bytes('>I2', members, i)), 1)
    end
    of_topic[number], members = bytes, bytes
  end
  set_bit(members, low, 1)
end

local function remove(topic, n)
  local number, low = floor(n / CONTAINER), n % CONTAINER
  local of_topic, members = open_container(topic, number)
  left[topic] = true
  if type(members) == 'table' then
    set_bit(members, low, 0)
    return
  end
  local wanted = pack('>I2', low)
  for i = 1, #members, 2 do
    if sub(members, i, i + 1) == wanted then
      of_topic[number] = sub(members, 1, i - 1) .. sub(members, i + 2)
      return
    end
  end
end

-- 3. Users: a list of ordinals in one value, since most have one device.

local function join(user, n)
  local list = lists[user]
  list = list == '' and text(n) or list .. ',' .. text(n)
  lists[user] = list
  local key, field = bucket('u', user)
  call('HSET', key, field, list)
end

local function leave(user, n)
  local others = {}
  for other in string.gmatch(lists[user], '%d+') do
    if tonumber(other) ~= n then
      others[#others + 1] = other
    end
  end
  lists[user] = table.concat(others, ',')
  local key, field = bucket('u', user)
  if #others > 0 then
    call('HSET', key, field, lists[user])
  else
    call('HDEL', key, field)
  end
end

-- 4. Tombstones: an ordered set under each label, and how many each has.

local function unearth(label, n)
  call('ZREM', prefix .. 'x:' .. label, text(n))
  if call('HINCRBY', prefix .. 'x', label, -1) == 0 then
    call('HDEL', prefix .. 'x', label)
  end
end

local function entomb(label, n, ms)
  call('ZADD', prefix .. 'x:' .. label, ms, text(n))
  call('HINCRBY', prefix .. 'x', label, 1)
end

-- 5. The changes. An index entry is taken out only where it is still this device's: another change may have taken it.

local living, active, cut, open = {}, 0, {}, {}
local following = tonumber(call('HGET', KEYS[1], 'next') or 0)
local first = following

local function forget(kind, digest, n)
  local key, field = bucket(kind, digest)
  if call('HGET', key, field) == text(n) then
    call('HDEL', key, field)
  end
end

local function exchange(kind, loses, gains, n)
  if loses ~= '' then
    forget(kind, loses, n)
  end
  if gains ~= '' then
    local key, field = bucket(kind, gains)
    call('HSET', key, field, text(n))
  end
end

-- What waits in the stream of a device waits no more.
local function let_go(place, n)
  local s = stream_at(prefix, n)
  for record = s and count_to(s, s.acked) or 0, s and #s.records / s.width - 1 or -1 do
    local facts = facts_of(prefix, key_at(s, record))
    if facts and expires_at(facts) > now then
      local o, index, platform = #open, index_and_platform(s, record)
      open[o + 1], open[o + 2], open[o + 3], open[o + 4] = place, index, platform_named(prefix, platform), facts
    end
  end
end

local function is_connected(n)
  local _, _, gateway = route_of(prefix, stream_at(prefix, n) or {}, now)
  return gateway ~= ''
end

-- The stream of a device that is gone ends, and its connection is to be closed.
local function end_stream(n, digest)
  local connection, _, gateway = drop_stream(prefix, n, now)
  if gateway ~= '' then
    cut[#cut + 1], cut[#cut + 2], cut[#cut + 3] = gateway, connection, given[digest] and 1 or 0
  end
end

for place, c in ipairs(changes) do
  local n, after, fate = tonumber(ARGV[c]), ARGV[c + 2], ARGV[c + 15]
  if not n then
    n, following = following, following + 1
    local block = block_of(n)
    if n % BLOCK == 0 then
      call('RPUSH', block, 0, after)
    else
      call('RPUSH', block, after)
    end
    living[block] = (living[block] or 0) + 1
  else
    local block = block_of(n)
    call('LSET', block, 1 + n % BLOCK, after)
    if after == '' then
      living[block] = (living[block] or 0) - 1
    end
    if ARGV[c + 3] ~= '' then
      let_go(place - 1, n)
      end_stream(n, ARGV[c + 3])
      if after ~= '' then
        note_moved(prefix, n) -- of another device, which may be that of another user than before
      end
    elseif fate == 'prune' and is_connected(n) then
      note_life(prefix, n, now)
    elseif fate ~= '' then
      let_go(place - 1, n)
      if fate == 'renew' then
        note_moved(prefix, n)
      end
      renew_stream(prefix, n, now)
    end
  end
  exchange('i', ARGV[c + 3], ARGV[c + 4], n)
  exchange('k', ARGV[c + 6], ARGV[c + 7], n)
  if ARGV[c + 9] ~= '' then
    leave(ARGV[c + 9], n)
  end
  if ARGV[c + 10] ~= '' then
    join(ARGV[c + 10], n)
  end
  active = active + tonumber(ARGV[c + 11])
  if ARGV[c + 12] ~= '' then
    unearth(ARGV[c + 12], n)
  end
  if ARGV[c + 13] ~= '' then
    entomb(ARGV[c + 13], n, ARGV[c + 14])
  end
  for t = c + 17, c + 16 + 3 * tonumber(ARGV[c + 16]), 3 do
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

if following > first then
  call('HSET', KEYS[1], 'next', text(following))
  note_born(prefix, first, now)
end
if active ~= 0 then
  call('HINCRBY', KEYS[1], 'active', active)
end
for topic, change in pairs(counts) do
  call('HINCRBY', prefix .. 't:' .. topic, '#', change)
end
for topic, numbers in pairs(containers) do
  local key = prefix .. 't:' .. topic
  for number, members in pairs(numbers) do
    members = type(members) == 'table' and string.char(unpack(members)) or members
    if members == '' or members == EMPTY then
      call('HDEL', key, text(number))
    else
      call('HSET', key, text(number), members)
    end
  end
  if left[topic] and call('HLEN', key) == 1 then
    call('DEL', key) -- its count alone
    call('ZREM', prefix .. 'topics', topic)
  elseif joined[topic] then
    call('ZADD', prefix .. 'topics', 0, topic)
  end
end
for block, change in pairs(living) do
  local count = call('LINDEX', block, 0) + change
  if count == 0 and call('LLEN', block) == 1 + BLOCK then
    call('DEL', block)
  else
    call('LSET', block, 0, count)
  end
end
local revocation = ''
if ARGV[4] ~= '' then
  local key, oldest = prefix .. 'revoked', string.format('%.0f', now - ARGV[5])
  revocation = call('XADD', key, 'MINID', '~', oldest, '*', 't', ARGV[4])
  call('PEXPIRE', key, ARGV[5])
end
return { 1, cut, open, revocation }
