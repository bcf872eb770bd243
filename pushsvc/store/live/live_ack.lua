-- Acknowledges everything up to an offset in each of some streams, or returns what that would acknowledge.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 1 to change nothing; 3 packed, for each device the digest of its id; epoch or -1 for any,
--       and offset, doubles; 65535 for any, or the number, 2 bytes, of deliveries that have ended, or to change nothing, of
--       those that the device was given, and their offsets, 4 bytes each, in their order: where another one that is open
--       would be acknowledged, the fault is `open`, and nothing is; 4 now ms
-- Returns for each { fault, acked, unacked, acked before, offset, index, platform, facts, .. of what was not
-- acknowledged before, where all may be, without what has expired and was not given }; or what was acknowledged before
-- alone, where everything is acknowledged as it was asked

-- include: live_stream

local prefix, look, asked, now = ARGV[1], ARGV[2] == '1', ARGV[3], tonumber(ARGV[4])
local HEAD = DIGEST + 18 -- bytes of a device before the offsets that it names
local ALL = 65535 -- their number where it may be any

-- The first of the records before `through` that are not acknowledged. Looked for from the end: many may stand before
-- it that were acknowledged long ago.
local function first_open(s, through)
  local first = through
  while first > 0 and offset_at(s, first - 1) > s.acked do
    first = first - 1
  end
  return first
end

-- The place behind that of the offset of a record in some of these, from a place on; or nil.
local function behind_place_of(s, record, offsets, at)
  local offset = sub(s.records, record * s.width + 11, record * s.width + 14)
  for place = at, #offsets, 4 do
    if sub(offsets, place, place + 3) == offset then
      return place + 4
    end
  end
  return nil
end

-- Whether these records are of deliveries that have ended, or of pushes that have expired or are gone.
local function have_ended(s, first, through, ended)
  local at = 1
  for record = first, through - 1 do
    local following = behind_place_of(s, record, ended, at)
    if following then
      at = following
    else
      local facts = facts_of(prefix, key_at(s, record))
      if facts and expires_at(facts) > now then
        return false
      end
    end
  end
  return true
end

-- Names what is acknowledged by these records: what has expired only where it was given, since otherwise it was never
-- seen, or where it is not known what was.
local function name(own, s, first, through, given)
  for record = first, through - 1 do
    local facts = facts_of(prefix, key_at(s, record))
    if facts and (not given or expires_at(facts) > now or behind_place_of(s, record, given, 1)) then
      local index, platform = index_and_platform(s, record)
      local o = #own
      own[o + 1], own[o + 2] = offset_at(s, record), index
      own[o + 3], own[o + 4] = platform_named(prefix, platform), facts
    end
  end
end

-- Most acknowledgements are of the latest record alone, whose delivery has ended, and change nothing of a stream but 4
-- bytes: it is not taken apart. Returns what is answered, or nil where this is no such acknowledgement.
local function take_latest(n, value, epoch, offset, ended)
  local flags = value ~= '' and byte(value, 1) - VERSION or -1
  if look or flags < 0 or flags >= WIDE or flags % 2 ~= CURSORS or sub(value, -4) ~= ended then
    return nil
  end
  local own_epoch, top, acked = unpack_bytes('>I4I4I4', value, 3)
  local from = 27 + (flags >= ROUTE and 9 + byte(value, 35) or 0)
  local records = (#value + 1 - from) / NARROW_RECORD
  if epoch >= 0 and epoch ~= own_epoch or offset ~= top or offset <= acked
    or records < 1 or unpack_bytes('>I4', value, #value - 3) ~= offset
    or records > 1 and unpack_bytes('>I4', value, #value - 3 - NARROW_RECORD) > acked then
    return nil
  end
  write_stream(prefix, n, sub(value, 1, 10) .. ended .. sub(value, 15))
  return acked
end

local function take(n, value, epoch, offset, ended)
  local s = value ~= '' and parse_stream(value)
  local fault = (not s and 'unknown') or (epoch >= 0 and epoch ~= s.epoch and 'epoch')
    or (offset > s.top and 'offset') or ''
  local before = s and s.acked or 0
  local own = { fault, before, 0, before }
  if s then
    local through = count_to(s, fault == '' and math.max(offset, s.acked) or s.acked)
    if fault == '' and offset > s.acked then
      local first = first_open(s, through)
      if look or not ended then
        name(own, s, first, through, ended)
      elseif not have_ended(s, first, through, ended) then
        own[1], through = 'open', first
      end
      if own[1] == '' then
        s.acked = offset
        if not look then
          write_stream(prefix, n, with_acked(value, s))
        end
      end
    end
    own[2], own[3] = s.acked, #s.records / s.width - through
  end
  return own
end

local ordinals, places, at = {}, {}, 1
while at <= #asked do
  ordinals[#ordinals + 1], places[#places + 1] = ordinal_of(prefix, asked, at), at + DIGEST
  local named = unpack_bytes('>I2', asked, at + HEAD - 2)
  at = at + HEAD + (named == ALL and 0 or 4 * named)
end
hold(prefix, ordinals)

local answer = {}
for p = 1, #places do
  local n, epoch, offset, named, from = ordinals[p], unpack_bytes('>ddI2', asked, places[p])
  local ended = named ~= ALL and sub(asked, from, from + 4 * named - 1)
  local value = n and read_stream(prefix, n) or ''
  answer[p] = take_latest(n, value, epoch, offset, ended) or take(n, value, epoch, offset, ended)
end
write_held(prefix)
return answer
