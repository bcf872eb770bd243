-- Appends pushes to the streams of devices, and returns where those that are connected are.
--
-- A stream whose last record was appended before this server was started may have lost what came after it: then its
-- offsets go on far behind all that may have been given out.
--
-- A push is known by its id. One that was withdrawn is appended nowhere any more. A repeat, as after an answer that was
-- lost, appends nothing and names again what the push has displaced.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 now ms; 3 most records of a stream; 4 a random number of 32 bits; 5 seconds since the
--       beginning of offsets; 6 most publications that are on their way to a connected device; 7, 8 numbers of the
--       changes of users and of the devices that the caller knows of, or -1; 9 number of the server's run that they are
--       of; then for each push: its hour; its digest, 4 bytes; its facts; until when the facts are kept, ms; digest of
--       its collapse, 4 bytes, or ''; its platform, with `:live` behind it where no other channel carries it on; 1 to
--       append only where the device is connected; its devices, packed: of each the digest of its id and the index of
--       its delivery, 4 bytes
-- Returns the numbers of the changes, of the devices and of the run now: the caller appends again to devices of status
-- MOVED that the push is for, as of these; gateways; then for each push
-- { packed, for each device status, offset, prev, unread, of which some may have expired or been withdrawn, epoch,
-- connection (B and 5 times I4) and place of its gateway (I2), which is 0 where it is not connected; all but the status
-- are 0 where there is no stream to name },
-- { for each that replaced another: place of the device, offset, index, platform, facts },
-- { the same for each that waits for its device alone and for which the stream has no room any more },
-- { the same for each for which the stream of a connected device has none, and which another channel carries on }

-- include: live_stream

local prefix, now, most, seed = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local since_beginning, window = tonumber(ARGV[5]), tonumber(ARGV[6])
local ABSENT, NEW, KNOWN, SUPERSEDED, AWAY, WITHDRAWN, MOVED = 0, 1, 2, 3, 4, 5, 6
local FIRST, ARGUMENTS, DEVICE = 10, 8, DIGEST + 4 -- argument of the first push; how many each has; bytes of a device
local JUMP = 4096
local AHEAD = 1000 -- ms by which the instant of a push may be ahead of the present, since clocks differ
local REPEATED, PART = 600000, 128 -- ms for which a push may name again what it has displaced; devices of one hash

local codes = {}
local function platform_code(name)
  if not codes[name] then
    local key = prefix .. 'live'
    local code = call('HGET', key, 'code:' .. name)
    if not code then
      code = call('HINCRBY', key, 'codes', 1)
      call('HSET', key, 'code:' .. name, code, 'platform:' .. code, name)
    end
    codes[name] = tonumber(code)
  end
  return codes[name]
end

-- The push that is being appended, its results, and the records that it displaces in the stream of one device.
local id, at, collapse_text, collapse, now_or_never, key, digest_of_key, code
local answer, replaced, overrun, carried
local displaced

local gateways, place_of_gateway = {}, { [''] = 0 }

local function packed(status, offset, prev, unread, epoch, connection, gateway)
  if not place_of_gateway[gateway] then
    gateways[#gateways + 1], place_of_gateway[gateway] = gateway, #gateways + 1
  end
  return pack('>BI4I4I4I4I4I2', status, offset, prev, unread, epoch, connection, place_of_gateway[gateway])
end

local function status_alone(status)
  return string.char(status) .. string.rep('\0', 22)
end

local run = current_run(prefix)

-- Whether an instant is of a time before the clock was set back.
local function is_ahead(instant)
  return instant > now + AHEAD
end

-- Returns the records with the collapse of the push: place, its facts, whether it is later. Among pushes of one instant
-- the ids decide. Of pushes from before and after the clock was set back it is unknown which is later: each stays, in
-- the order of arrival.
local function rivals(s)
  local found, start = {}, 1
  while s.width == WIDE_RECORD do
    local place = find(s.records, collapse, start, true)
    if not place then
      break
    end
    if place % WIDE_RECORD == NARROW_RECORD + 1 then
      local record = floor(place / WIDE_RECORD)
      local own = facts_of(prefix, key_at(s, record))
      if own then
        local other, instant, text = read_facts(own)
        if text == collapse_text and is_ahead(instant) == is_ahead(at) then
          found[#found + 1] = { record, own, instant > at or instant == at and other > id }
        end
      end
    end
    start = place + 1
  end
  return found
end

local function widen(s)
  local records = {}
  for record = 0, #s.records / NARROW_RECORD - 1 do
    records[record + 1] = sub(s.records, record * NARROW_RECORD + 1, (record + 1) * NARROW_RECORD)
  end
  records[#records + 1] = ''
  s.records, s.width = table.concat(records, '\0\0\0\0'), WIDE_RECORD
end

-- A record as it stands in a stream, without its collapse; see streams.py.
local function reference(device, record, facts)
  local _, _, both, offset = unpack_bytes('>I2I4I4I4', record)
  return { device, offset, both % INDEXES, platform_named(prefix, floor(both / INDEXES)), facts }
end

local function record_at(s, record)
  return sub(s.records, record * s.width + 1, record * s.width + NARROW_RECORD)
end

local function displace(found, s, device, record, facts)
  local own = record_at(s, record)
  found[#found + 1] = reference(device, own, facts)
  displaced = displaced .. (found == replaced and 'r' or 'o') .. own
end

local function displaced_place(n)
  local hour, digest_of_id = unpack_bytes('>I2I4', key)
  return format('%sdisplaced:%d:%08x:%d', prefix, hour, digest_of_id, floor(n / PART)), n % PART
end

local function note_displaced(n)
  if displaced ~= '' then
    local kept, field = displaced_place(n)
    call('HSET', kept, field, displaced)
    call('PEXPIRE', kept, REPEATED)
  end
end

local function repeat_displaced(n, device)
  local kept, field = displaced_place(n)
  for kind, record in string.gmatch(call('HGET', kept, field) or '', '(.)(' .. string.rep('.', NARROW_RECORD) .. ')') do
    local facts = facts_of(prefix, sub(record, 1, KEY))
    local found = kind == 'r' and replaced or overrun
    found[#found + 1] = facts and reference(device, record, facts) or nil
  end
end

-- Whether a later push with the same collapse stands in the stream; else the earlier ones that wait leave it.
local function is_superseded(s, device)
  local own = rivals(s)
  for _, rival in ipairs(own) do
    if rival[3] then
      return true
    end
  end
  for r = #own, 1, -1 do
    local record = own[r][1]
    if offset_at(s, record) > s.acked then
      displace(replaced, s, device, record, own[r][2])
      remove_record(s, record)
    end
  end
  return false
end

local moves, births = tonumber(ARGV[7]), tonumber(ARGV[8])
if tonumber(ARGV[9]) ~= run then
  moves, births = -1, -1 -- another server may have counted other changes
end
local lately = call('HMGET', prefix .. 'live', 'moves', 'young', 'born_at', 'born_last')
local settled_at = lately[4] and lately[4] + APART or math.huge
local any_moved = call('EXISTS', prefix .. 'moved') == 1
if births < 0 then
  births = lately[2] and now < lately[3] + 2 * LATELY and tonumber(lately[2]) or math.huge
end

-- Whether the device may have another user than the caller knows.
local function may_have_moved(n)
  return n >= births and at <= settled_at or any_moved and tonumber(call('ZSCORE', prefix .. 'moved', n) or -1) > moves
end

-- The oldest records leave a full stream. Where the device is connected, some of those that it has not acknowledged are
-- on their way to it, and their acknowledgements come: a window of them, and as many again while those of the first are
-- being taken. The oldest behind these leave it.
local function make_room(s, over, online, device)
  local count, acked = #s.records / s.width, count_to(s, s.acked)
  local first = online and acked < over and math.min(acked + 2 * window, count - over) or 0
  for record = math.max(first, acked), first + over - 1 do
    local _, platform = index_and_platform(s, record)
    local alone = waits_alone(prefix, platform)
    local facts = (alone or online) and facts_of(prefix, key_at(s, record))
    if facts and expires_at(facts) > now then
      if alone then
        displace(overrun, s, device, record, facts)
      else
        carried[#carried + 1] = reference(device, record_at(s, record), facts)
      end
    end
  end
  s.floor, s.lost = math.max(s.floor, offset_at(s, first + over - 1)), s.lost + over
  s.records = sub(s.records, 1, first * s.width) .. sub(s.records, (first + over) * s.width + 1)
end

-- Most appends change nothing of a stream but its end and its top, and need none of it taken apart: no collapse, room
-- for another record, and no record that may be of this push. Returns what is answered, or nil where this is no such
-- append.
local function append_behind(n, value, index)
  local flags = value ~= '' and byte(value, 1) - VERSION or -1
  if flags < 0 or flags >= WIDE or byte(value, 2) ~= run then
    return nil
  end
  local epoch, top, from = unpack_bytes('>I4I4', value, 3)
  local _, read, lost_to, connection, since, gateway = 0, 0, 0, 0, CUT, ''
  if flags % 2 == CURSORS then
    _, read, lost_to, _, from = unpack_bytes('>I4I4I4I4', value, from)
  end
  if flags >= ROUTE then
    connection, since, gateway, from = unpack_bytes('>I4I4Bc0', value, from)
  end
  local count = (#value + 1 - from) / NARROW_RECORD
  if count >= most or find(value, digest_of_key, from, true) then
    return nil
  end
  local last = count > 0 and unpack_bytes('>I4', value, #value - 3) or 0
  local has_read = count
  if read < last then
    has_read = read > 0 and count_to({ records = sub(value, from), width = NARROW_RECORD, top = top }, read) or 0
  end
  if since == CUT or not alive(prefix, gateway, now) then
    connection, gateway = 0, ''
  end
  local place = pack('>I4I4', code + index, top + 1)
  write_stream(prefix, n, sub(value, 1, 6) .. sub(place, 5) .. sub(value, 11) .. key .. place)
  return packed(NEW, top + 1, math.max(last, lost_to), count + 1 - has_read, epoch, connection, gateway)
end

local function append_to(n, index, place)
  local status, offset, prev, s = ABSENT, 0, 0, nil
  displaced = ''
  if n and may_have_moved(n) then
    answer[place + 1] = status_alone(MOVED)
    n = nil
  end
  local value = n and read_stream(prefix, n)
  local appended = value and collapse == '' and not now_or_never and append_behind(n, value, index)
  if appended then
    answer[place + 1] = appended
  elseif value then
    s = value == '' and new_stream((seed + n) % 4294967296, run) or parse_stream(value)
  end
  if s then
    local record = record_of(s, key)
    local connection, _, gateway = route_of(prefix, s, now)
    if record then
      status, offset, prev = KNOWN, offset_at(s, record), before(s, record, offset_at(s, record))
      repeat_displaced(n, place)
      local own_index, platform = index_and_platform(s, record)
      if platform * INDEXES ~= code then
        -- Its provider could not deliver it, and from now on it waits for the device alone.
        local at_key = record * s.width + KEY
        s.records = sub(s.records, 1, at_key) .. pack('>I4', code + own_index) .. sub(s.records, at_key + 5)
        write_stream(prefix, n, format_stream(s))
      end
    elseif now_or_never and gateway == '' then
      status = AWAY
    elseif collapse ~= '' and is_superseded(s, place) then
      status = SUPERSEDED
    else
      local count = #s.records / s.width
      if count >= most then
        make_room(s, count - most + 1, gateway ~= '', place)
        count = #s.records / s.width
      end
      prev = before(s, count, s.top + 1)
      if s.run ~= run then
        s.run, s.top = run, math.max(s.top + JUMP, since_beginning)
      end
      s.top = s.top + 1
      if collapse ~= '' and s.width == NARROW_RECORD then
        widen(s)
      end
      s.records = s.records .. key .. pack('>I4I4', code + index, s.top)
        .. (s.width == WIDE_RECORD and (collapse ~= '' and collapse or '\0\0\0\0') or '')
      status, offset = NEW, s.top
      write_stream(prefix, n, format_stream(s))
      note_displaced(n)
    end
    answer[place + 1] = packed(status, offset, prev, count_after(s, s.read), s.epoch, connection, gateway)
  elseif not answer[place + 1] then
    answer[place + 1] = status_alone(ABSENT)
  end
end

local ordinals, nth = {}, 0 -- of the devices of all pushes
for i = FIRST + ARGUMENTS - 1, #ARGV, ARGUMENTS do
  for at = 1, #ARGV[i], DEVICE do
    ordinals[#ordinals + 1] = ordinal_of(prefix, ARGV[i], at)
  end
end
hold(prefix, ordinals)

local found = { tonumber(lately[1] or 0), tonumber(call('HGET', KEYS[1], 'next') or 0), run, gateways }
for i = FIRST, #ARGV, ARGUMENTS do
  local facts, devices = ARGV[i + 2], ARGV[i + 7]
  answer, replaced, overrun, carried = {}, {}, {}, {}
  id, at, collapse_text = read_facts(facts)
  collapse, now_or_never = ARGV[i + 4], ARGV[i + 6] == '1'
  local kept
  key, kept = keep_facts(prefix, ARGV[i], ARGV[i + 1], id, facts, ARGV[i + 3])
  local is_withdrawn = kept and expires_at(kept) == WITHDRAWN_AT
  digest_of_key = sub(key, 3)
  code = platform_code(ARGV[i + 5]) * INDEXES
  for place = 0, #devices / DEVICE - 1 do
    nth = nth + 1
    if is_withdrawn then
      answer[place + 1] = status_alone(WITHDRAWN)
    else
      append_to(ordinals[nth], unpack_bytes('>I4', devices, place * DEVICE + DIGEST + 1), place)
    end
  end
  local f = #found
  found[f + 1], found[f + 2], found[f + 3], found[f + 4] = table.concat(answer), replaced, overrun, carried
end
write_held(prefix)
return found
