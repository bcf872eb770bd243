-- Makes a connection that of a device, and reads what stands behind its position in the stream.
--
-- Removes what has expired or is too old from the stream first, before it is read.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 now ms; 3 digest of the device's id; 4 gateway; 5 connection; 6 when the token was issued,
--       ms; 7 epoch of the position, or -1; 8 its offset; 9 most publications; 10 the present hour; 11 hours for which
--       streams are kept; 12 a random number of 32 bits; 13 1 to begin with what is not acknowledged, though it stands
--       before the position
-- Returns { 'unknown' }, { 'revoked' }, { 'unreadable' } or { '', 1 if the device is a tombstone, epoch, top, offset
-- behind which the publications begin, 1 if the position was valid, missing, those of them behind a valid position,
-- floor, acked, unread, 1 if more follow, gateway and connection that were replaced, or '' and 0, { offset, prev,
-- index, facts, .. } }

-- include: live_stream
-- include: live_open
-- include: document
-- include: device_seen

-- Where more are unread, as where an app never reports what was read, those that have expired or were withdrawn are
-- among them, until the gateway compares the connection with its stream: to look at 200 takes 6 times as long as the
-- rest of a connect.
local COUNTED = 50

local prefix, now, digest = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local gateway, connection = ARGV[4], tonumber(ARGV[5])
local epoch, offset, most = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local hour, hours = tonumber(ARGV[10]), tonumber(ARGV[11])

local n = ordinal_of(prefix, digest)
if not n then
  return { 'unknown' }
end
if is_refused(prefix, digest, ARGV[6]) then
  return { 'revoked' }
end
local value = read_stream(prefix, n)
local s = value == '' and new_stream((tonumber(ARGV[12]) + n) % 4294967296, current_run(prefix)) or parse_stream(value)
if not s then
  return { 'unreadable' }
end

local other, _, other_gateway = connection_of(prefix, s, now)
if other_gateway == gateway and other == connection then
  other, other_gateway = 0, ''
end
s.gateway, s.connection, s.since = gateway, connection, floor(now / 1000)

local valid = epoch == s.epoch and offset <= s.top
local since = valid and (ARGV[13] == '1' and math.min(offset, s.acked) or offset) or s.acked
local first, total = count_to(s, since), #s.records / s.width
local kept, found, more = { sub(s.records, 1, first * s.width) }, {}, 0
local prev = first > 0 and offset_at(s, first - 1) or 0
for record = first, total - 1 do
  local own, at = key_at(s, record), offset_at(s, record)
  local full = #found >= 4 * most
  local facts = not full and facts_of(prefix, own)
  if is_aged(own, hour, hours) or not (full or facts) then
    lose(s, at)
  elseif full or expires_at(facts) > now then
    kept[#kept + 1] = sub(s.records, record * s.width + 1, (record + 1) * s.width)
    if full then
      more = 1
    else
      local f = #found
      found[f + 1], found[f + 2] = at, behind(s, prev, at)
      found[f + 3], found[f + 4] = index_and_platform(s, record), facts
      prev = at
    end
  end
end
s.records = table.concat(kept)
write_stream(prefix, n, format_stream(s))
local unread = count_after(s, s.read)
if unread <= COUNTED then
  unread = open_after(prefix, s, s.read, now)
end
-- What is missing before the position was announced at an earlier connect: nothing is begun before that.
if valid and s.floor <= offset and not (found[1] and found[1] < s.floor) then
  since = math.max(since, s.floor)
end
return {
  '', note_life(prefix, n, now), s.epoch, s.top, since, valid and 1 or 0, missing_behind(s, since),
  valid and missing_behind(s, offset) or 0, s.floor, s.acked, unread, more, other_gateway, other, found,
}
