-- Returns the state of devices in the live channel. What has expired or was withdrawn is neither unacknowledged nor
-- unread.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 now ms; 3 a gateway that asks for its own connections, or '': it lives, though its last
--       sign of life may be over; then the digests of the devices' ids
-- Returns for each { } without a device, { -1 } without a stream, { -2 } with one that this version cannot read, or
-- { epoch, top, acked, unacked, unread, connection, connected at in seconds, gateway }

-- include: live_stream
-- include: live_open

local prefix, now = ARGV[1], tonumber(ARGV[2])
local answer = {}
lives[ARGV[3]] = true

for i = 4, #ARGV do
  local n = ordinal_of(prefix, ARGV[i])
  local value = n and read_stream(prefix, n) or ''
  local s = value ~= '' and parse_stream(value)
  if s then
    local connection, since, gateway = route_of(prefix, s, now)
    local unacked, unread
    if s.acked <= s.read then
      unacked, unread = open_after(prefix, s, s.acked, now, s.read)
    else
      unread, unacked = open_after(prefix, s, s.read, now, s.acked)
    end
    answer[#answer + 1] = { s.epoch, s.top, s.acked, unacked, unread, connection, since, gateway }
  else
    answer[#answer + 1] = (not n and {}) or (value == '' and { -1 }) or { -2 }
  end
end
return answer
