-- Takes out of some streams what is too old, and the streams of devices that are gone, and notes that those which are
-- connected live.
--
-- KEYS  1 a list of streams
-- ARGV  1 prefix `ps:D:`; 2 number of the list; 3 the present hour; 4 hours for which streams are kept; 5 1 to count
--       only; 6 now ms
-- Returns { streams of devices that are gone, records that were too old }

-- include: live_stream
-- include: document
-- include: device_seen

local prefix, number, hour, hours = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local count_only = ARGV[5] == '1'
local now = tonumber(ARGV[6])
local gone, aged, left = 0, 0, 0
for place, value in ipairs(call('LRANGE', KEYS[1], 0, -1)) do
  local n = number * STREAMS + place - 1
  local s = value ~= '' and parse_stream(value)
  if value ~= '' and document_of(prefix, n) == '' then
    gone = gone + 1
    s = nil
    if not count_only then
      call('LSET', KEYS[1], place - 1, '')
    end
  elseif value ~= '' then
    left = left + 1
  end
  if s then
    local _, _, gateway = route_of(prefix, s, now)
    if gateway ~= '' and not count_only then
      note_life(prefix, n, now)
    end
    local kept = {}
    for record = 0, #s.records / s.width - 1 do
      if is_aged(key_at(s, record), hour, hours) then
        lose(s, offset_at(s, record))
        aged = aged + 1
      else
        kept[#kept + 1] = sub(s.records, record * s.width + 1, (record + 1) * s.width)
      end
    end
    s.records = table.concat(kept)
    local after = format_stream(s)
    if after ~= value and not count_only then
      call('LSET', KEYS[1], place - 1, after)
    end
  end
end
if left == 0 and not count_only then
  call('DEL', KEYS[1])
end
return { gone, aged }
