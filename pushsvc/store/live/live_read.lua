-- Notes that a user has read everything up to an offset of one device's stream, there and on the user's other devices.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 now ms; 3 epoch or -1 for any; 4 offset; then the digests of the devices' ids, first the
--       one that was read on
-- Returns { fault, for each device unread or -1 without a stream, connection and gateway, or 0 and '' }

-- include: live_stream
-- include: live_open

local prefix, now, epoch, offset = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local n = ordinal_of(prefix, ARGV[5])
local s = stream_at(prefix, n)
if not s then
  return { 'unknown' }
elseif epoch >= 0 and epoch ~= s.epoch then
  return { 'epoch' }
elseif offset > s.top then
  return { 'offset' }
end

local newly = {}
for record = count_to(s, s.read), count_to(s, offset) - 1 do
  newly[#newly + 1] = key_at(s, record)
end
local answer = { '' }

local function read_to(number, stream, where)
  if where > stream.read then
    stream.read = where
    write_stream(prefix, number, format_stream(stream))
  end
  local a = #answer
  local connection, _, gateway = route_of(prefix, stream, now)
  answer[a + 1], answer[a + 2], answer[a + 3] = open_after(prefix, stream, stream.read, now), connection, gateway
end

read_to(n, s, offset)
for i = 6, #ARGV do
  local number = ordinal_of(prefix, ARGV[i])
  local stream = stream_at(prefix, number)
  if stream then
    local last = 0
    for _, key in ipairs(newly) do
      local record = record_of(stream, key)
      last = record and math.max(last, offset_at(stream, record)) or last
    end
    read_to(number, stream, last)
  else
    local a = #answer
    answer[a + 1], answer[a + 2], answer[a + 3] = -1, 0, ''
  end
end
return answer
