-- Ends a connection, if it is that of the device, which was seen until now.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 digest of the device's id; 3 gateway; 4 connection; 5 now ms
-- Returns 1, or 0 where it is not

-- include: live_stream
-- include: document
-- include: device_seen

local prefix = ARGV[1]
local n = ordinal_of(prefix, ARGV[2])
local value = n and read_stream(prefix, n) or ''
local s = value ~= '' and parse_stream(value)
if not s or s.gateway ~= ARGV[3] or s.connection ~= tonumber(ARGV[4]) then
  return 0
end
s.gateway = nil
write_stream(prefix, n, format_stream(s))
note_life(prefix, n, tonumber(ARGV[5]))
return 1
