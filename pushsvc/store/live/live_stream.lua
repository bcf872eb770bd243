-- Included by others: the stream of a device, which is one element of a list; see streams.py for its form.

-- layout: STREAMS INDEXES

local call, byte, find, floor, format, sub = redis.call, string.byte, string.find, math.floor, string.format, string.sub
local pack, unpack_bytes = struct.pack, struct.unpack

local VERSION, CURSORS, ROUTE, WIDE = 16, 1, 2, 4
local NARROW_RECORD, WIDE_RECORD, KEY, DIGEST = 14, 18, 6, 12
local CUT = 0

-- The ordinal of the device whose id has this digest, or the one that begins `at` there in a text; or false.
local function ordinal_of(prefix, text, at)
  at = at or 1
  local n = call('HGET', format('%si:%02x%02x', prefix, byte(text, at, at + 1)), sub(text, at + 2, at + DIGEST - 1))
  return n and tonumber(n)
end

-- The list of the stream of device n, and its place there. The server formats a number more slowly than this, and what
-- is read is mostly written next.
local placed, list_of_it, place_of_it
local function place_of(prefix, n)
  if placed ~= n then
    placed, list_of_it, place_of_it = n, format('%sstreams:%d', prefix, n / STREAMS), format('%d', n % STREAMS)
  end
  return list_of_it, place_of_it
end

-- Lists of which a step uses nearly all streams, by their numbers. They are read and written whole: that costs the
-- server less than a command for each of these streams, but the more the longer the others are.
local MANY = 26
local held, changed = {}, {}

-- Holds the lists that have many of these devices, until `write_held`.
local function hold(prefix, ordinals)
  local counts = {}
  for _, n in pairs(ordinals) do
    if n then
      local list = floor(n / STREAMS)
      counts[list] = (counts[list] or 0) + 1
    end
  end
  for list, count in pairs(counts) do
    if count >= MANY then
      local streams = call('LRANGE', format('%sstreams:%d', prefix, list), 0, -1)
      for place = #streams + 1, STREAMS do
        streams[place] = ''
      end
      held[list] = streams
    end
  end
end

local function write_held(prefix)
  for list in pairs(changed) do
    local key = format('%sstreams:%d', prefix, list)
    call('DEL', key)
    call('RPUSH', key, unpack(held[list]))
  end
end

-- The bytes of the stream of device n, empty where it has none.
local function read_stream(prefix, n)
  local streams = held[floor(n / STREAMS)]
  if streams then
    return streams[n % STREAMS + 1]
  end
  local key, place = place_of(prefix, n)
  return call('LINDEX', key, place) or ''
end

local function write_stream(prefix, n, value)
  local list = floor(n / STREAMS)
  if held[list] then
    held[list][n % STREAMS + 1], changed[list] = value, true
    return
  end
  local key, place = place_of(prefix, n)
  if redis.pcall('LSET', key, place, value).err and call('EXISTS', key) == 0 then
    local streams = {}
    for i = 0, STREAMS - 1 do
      streams[i + 1] = i == n % STREAMS and value or ''
    end
    call('RPUSH', key, unpack(streams))
  end
end

local function new_stream(epoch, run)
  return { epoch = epoch, run = run, top = 0, acked = 0, read = 0, floor = 0, lost = 0, width = NARROW_RECORD,
    records = '' }
end

-- nil where this version cannot read it.
local function parse_stream(value)
  local flags = byte(value, 1) - VERSION
  if flags < 0 or flags > 7 then
    return nil
  end
  local run, epoch, top, at = unpack_bytes('>BI4I4', value, 2)
  local acked, read, lost_to, lost = 0, 0, 0, 0
  local connection, since, gateway
  if flags % 2 == CURSORS then
    acked, read, lost_to, lost, at = unpack_bytes('>I4I4I4I4', value, at)
  end
  if flags % 4 >= ROUTE then
    connection, since, gateway, at = unpack_bytes('>I4I4Bc0', value, at)
  end
  return { -- made at once: a table that grows by its fields costs as much as the rest of this
    run = run, epoch = epoch, top = top, acked = acked, read = read, floor = lost_to, lost = lost,
    connection = connection, since = since, gateway = gateway,
    width = flags >= WIDE and WIDE_RECORD or NARROW_RECORD, records = sub(value, at),
  }
end

-- The stream of device n; nil where it has none that this version can read.
local function stream_at(prefix, n)
  local value = n and read_stream(prefix, n) or ''
  return value ~= '' and parse_stream(value) or nil
end

local function format_stream(s)
  local flags, cursors, route = VERSION, '', ''
  if s.acked + s.read + s.floor > 0 then
    flags, cursors = flags + CURSORS, pack('>I4I4I4I4', s.acked, s.read, s.floor, s.lost)
  end
  if s.gateway then
    flags, route = flags + ROUTE, pack('>I4I4Bc0', s.connection, s.since, #s.gateway, s.gateway)
  end
  if s.width == WIDE_RECORD then
    flags = flags + WIDE
  end
  return pack('>BBI4I4', flags, s.run, s.epoch, s.top) .. cursors .. route .. s.records
end

-- The value of stream `s`, of which nothing but what was acknowledged has changed since it was `value`.
local function with_acked(value, s)
  if byte(value, 1) % 2 == CURSORS then
    return sub(value, 1, 10) .. pack('>I4', s.acked) .. sub(value, 15)
  end
  return format_stream(s)
end

local function offset_at(s, record)
  return (unpack_bytes('>I4', s.records, record * s.width + 11))
end

-- How many records have an offset of at most this one; they are in the order of their offsets.
local function count_to(s, offset)
  local low, high = 0, #s.records / s.width
  if offset <= 0 or high == 0 then
    return 0
  end
  if offset >= s.top then
    return high
  end
  while low < high do
    local middle = floor((low + high) / 2)
    if offset_at(s, middle) <= offset then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local function count_after(s, offset)
  return #s.records / s.width - count_to(s, offset)
end

-- What stands before an offset: the record that is given by its offset, or what was lost behind it.
local function behind(s, other, offset)
  return s.floor < offset and math.max(other, s.floor) or other
end

-- What stands before the place of a record that has, or would have, this offset.
local function before(s, record, offset)
  return behind(s, record > 0 and offset_at(s, record - 1) or 0, offset)
end

-- The place of the record of a push, or nil. A key is found at the beginning of a record only. Its digest is looked
-- for: all keys of an hour begin alike.
local function record_of(s, key)
  local at = find(s.records, sub(key, 3), 3, true)
  while at do
    if (at - 3) % s.width == 0 and sub(s.records, at - 2, at + 3) == key then
      return (at - 3) / s.width
    end
    at = find(s.records, sub(key, 3), at + 1, true)
  end
  return nil
end

local function remove_record(s, record)
  s.records = sub(s.records, 1, record * s.width) .. sub(s.records, (record + 1) * s.width + 1)
end

local function key_at(s, record)
  return sub(s.records, record * s.width + 1, record * s.width + KEY)
end

local function index_and_platform(s, record)
  local both = unpack_bytes('>I4', s.records, record * s.width + KEY + 1)
  return both % INDEXES, floor(both / INDEXES)
end

local function missing_behind(s, offset)
  return s.floor > offset and math.min(s.floor - offset, s.lost) or 0
end

local function facts_key(prefix, key)
  return format('%spushes:%d:%d', prefix, unpack_bytes('>I2B', key))
end

-- What all streams know of the push of a record; false where it is gone.
local function facts_of(prefix, key)
  return call('HGET', facts_key(prefix, key), sub(key, 3))
end

local function expires_at(facts)
  return byte(facts, 1) == 1 and (unpack_bytes('>I6', facts, 2)) or math.huge
end

-- The expiry of a push that was withdrawn.
local WITHDRAWN_AT = 0

-- The id of a push, when it was to be sent, and its collapse; nil where this version cannot read its facts.
local function read_facts(facts)
  if byte(facts, 1) ~= 1 then
    return nil
  end
  local _, _, at, _, _, id, rest = unpack_bytes('>BI6I6BI4Bc0', facts)
  return id, at, sub(facts, rest)
end

-- Keeps what streams are to know of a push, unless they know of it. Returns its key, and what they know already, if
-- anything. The key is its hour and the digest of its id, or the next one that no other push of the hour has.
local function keep_facts(prefix, hour, digest, id, facts, till)
  hour = pack('>I2', hour)
  while true do
    local key = hour .. digest
    local place = facts_key(prefix, key)
    if call('HSETNX', place, digest, facts) == 1 then -- most pushes are new, and one command is less than two
      call('PEXPIREAT', place, till)
      return key
    end
    local known = call('HGET', place, digest)
    if read_facts(known) == id then
      return key, known
    end
    digest = pack('>I4', (unpack_bytes('>I4', digest) + 1) % 4294967296)
  end
end

-- Whether a record is older than streams are kept; both in hours, and the hour of a record has 16 bits.
local function is_aged(key, hour, most)
  local age = (hour - unpack_bytes('>I2', key)) % 65536
  return age < 32768 and age > most
end

-- The record is gone without having been read.
local function lose(s, offset)
  s.floor, s.lost = math.max(s.floor, offset), s.lost + 1
end

-- The number of the server's run in which a stream was last appended to; another one after each start of a server.
local function current_run(prefix)
  local info = call('INFO', 'server')
  local _, mark = find(info, 'run_id:', 1, true)
  local server = string.match(info, '^%w+', mark + 1)
  local known = call('HMGET', prefix .. 'live', 'server', 'run')
  if known[1] == server then
    return tonumber(known[2])
  end
  local run = (tonumber(known[2] or -1) + 1) % 256
  call('HSET', prefix .. 'live', 'server', server, 'run', run)
  return run
end

-- The name of a code: the platform of a device, `apns`, or `apns:live` where no other channel carries on what the
-- device does not acknowledge. `live` has no other.
local names = {}
local function name_of(prefix, code)
  names[code] = names[code] or call('HGET', prefix .. 'live', 'platform:' .. code) or ''
  return names[code]
end

local function platform_named(prefix, code)
  return string.match(name_of(prefix, code), '^[^:]*')
end

local function waits_alone(prefix, code)
  return find(name_of(prefix, code), 'live$') ~= nil
end

-- Whether a gateway has given a sign of life that is valid at `now`.
local lives = {}
local function alive(prefix, gateway, now)
  if lives[gateway] == nil then
    local word = call('HGET', prefix .. 'gateways', gateway)
    lives[gateway] = word and tonumber(string.match(word, '^%d+')) > now or false
  end
  return lives[gateway]
end

-- Where the device has a connection, as connection, instant and gateway, also one that is to be ended, whose instant is
-- CUT; 0, 0 and '' where it has none.
local function connection_of(prefix, s, now)
  if s.gateway and alive(prefix, s.gateway, now) then
    return s.connection, s.since, s.gateway
  end
  return 0, 0, ''
end

-- Where the device is connected, and gets what is appended; 0, 0 and '' where it is not.
local function route_of(prefix, s, now)
  if s.since == CUT then
    return 0, 0, ''
  end
  return connection_of(prefix, s, now)
end

-- Whether tokens of the device that were issued at that instant are refused.
local function is_refused(prefix, digest, issued_at)
  local refused = call('ZSCORE', prefix .. 'refused', digest)
  return refused and tonumber(issued_at) < tonumber(refused)
end

-- Who has the user of a push may be another one by the time of its append. Changes of users are numbered, and devices
-- that came lately are known by their ordinals: of these the caller asks the registry before it appends, unless none
-- came since the push began, which is when its devices were chosen.
local LATELY, MOST_MOVED = 60000, 50000 -- ms, devices
local APART = 1000 -- ms by which the clocks of two processes differ at most

local function note_moved(prefix, n)
  local key = prefix .. 'moved'
  call('ZADD', key, call('HINCRBY', prefix .. 'live', 'moves', 1), n)
  call('ZREMRANGEBYRANK', key, 0, -MOST_MOVED - 1)
  call('PEXPIRE', key, 10 * LATELY)
end

-- Devices from this ordinal on are new. Their span is twice as long as what is noted, or up to that.
local function note_born(prefix, first, now)
  local known = call('HMGET', prefix .. 'live', 'born_at', 'born')
  local instant = format('%.0f', now)
  if not known[1] or now - known[1] >= LATELY then
    call('HSET', prefix .. 'live', 'born_at', instant, 'young', known[2] or first, 'born', first)
  end
  call('HSET', prefix .. 'live', 'born_last', instant)
end

-- The device is gone, or has another id. Returns where it has a connection, as `connection_of` does.
local function drop_stream(prefix, n, now)
  local value = read_stream(prefix, n)
  if value ~= '' then
    write_stream(prefix, n, '')
  end
  return connection_of(prefix, value ~= '' and parse_stream(value) or {}, now)
end

-- Nothing of this is for the device any more: another stream begins, on the same connection.
local function renew_stream(prefix, n, now)
  local s = stream_at(prefix, n)
  if s then
    s.epoch, s.records, s.width = (s.epoch + 1) % 4294967296, '', NARROW_RECORD
    s.acked, s.read, s.floor, s.lost = s.top, s.top, s.top, 0
    write_stream(prefix, n, format_stream(s))
  else
    drop_stream(prefix, n, now)
  end
end
