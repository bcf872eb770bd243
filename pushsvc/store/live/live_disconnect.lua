-- Ends connections, each if it is that of its device, which was seen until now. Any other one of the device goes on,
-- whatever its number: a connect that failed ends too, and two connects are not always recorded in their order.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 now ms; then for each: digest of the device's id, gateway, connection
-- Returns for each 1, or 0 where it is not

-- include: live_stream
-- include: document
-- include: device_seen

local prefix, now = ARGV[1], tonumber(ARGV[2])
local ended = {}
for at = 3, #ARGV, 3 do
  local n = ordinal_of(prefix, ARGV[at])
  local s = stream_at(prefix, n)
  if s and s.gateway == ARGV[at + 1] and s.connection == tonumber(ARGV[at + 2]) then
    s.gateway = nil
    write_stream(prefix, n, format_stream(s))
    note_life(prefix, n, now)
    ended[#ended + 1] = 1
  else
    ended[#ended + 1] = 0
  end
end
return ended
