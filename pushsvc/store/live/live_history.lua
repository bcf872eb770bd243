-- Reads a part of a stream, forwards or backwards, and changes nothing.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 now ms; 3 digest of the device's id; 4 epoch or -1 for any; 5 offset behind which, or in
--       reverse before which, it begins, or -1; 6 most publications; 7 1 for reverse; 8 the present hour; 9 hours for
--       which streams are kept
-- Returns nothing without a stream, else { epoch, top, missing, floor, 1 if more follow, offset, prev, index, facts, .. }

-- include: live_stream

local prefix, now, epoch, offset = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
local most, reverse, hour, hours = tonumber(ARGV[6]), ARGV[7] == '1', tonumber(ARGV[8]), tonumber(ARGV[9])

local n = ordinal_of(prefix, ARGV[3])
local s = stream_at(prefix, n)
if not s then
  return nil
end
if epoch >= 0 and epoch ~= s.epoch then
  return { s.epoch, s.top, 0, 0, 0 }
end
local first, last = 0, #s.records / s.width - 1
if offset >= 0 and reverse then
  last = count_to(s, offset - 1) - 1
elseif offset >= 0 then
  first = count_to(s, offset)
end
local found, more = {}, 0

-- Forwards, `prev` leads past what has expired; backwards, it is whatever stands before.
local prev = first > 0 and offset_at(s, first - 1) or 0
for step = 0, last - first do
  local record = reverse and last - step or first + step
  local key, at = key_at(s, record), offset_at(s, record)
  local facts = facts_of(prefix, key)
  if is_aged(key, hour, hours) or not facts then
    lose(s, at)
  elseif expires_at(facts) > now then
    if #found == 4 * most then
      more = 1
      break
    end
    local f = #found
    found[f + 1], found[f + 2] = at, reverse and before(s, record, at) or behind(s, prev, at)
    found[f + 3], found[f + 4] = index_and_platform(s, record), facts
    prev = at
  end
end
local reaches = more == 0 or prev > s.floor
local missing = not reverse and reaches and missing_behind(s, math.max(offset, 0)) or 0
local answer = { s.epoch, s.top, missing, s.floor, more }
for i = 1, #found do
  answer[5 + i] = found[i]
end
return answer
