-- Returns whether a push stands in the stream of a device and has not expired.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 digest of the device's id; 3 digest of the push's id, 4 bytes; 4 the push's id; 5 now ms
-- Returns 1 or 0

-- include: live_stream

-- A digest that another push of the hour has takes the next free number; more than this are not looked at.
local BESIDE = 16

local prefix, wanted = ARGV[1], unpack_bytes('>I4', ARGV[3])
local n = ordinal_of(prefix, ARGV[2])
local s = stream_at(prefix, n)
for record = 0, s and #s.records / s.width - 1 or -1 do
  local key = key_at(s, record)
  if (unpack_bytes('>I4', key, 3) - wanted) % 4294967296 < BESIDE then
    local facts = facts_of(prefix, key)
    if facts and read_facts(facts) == ARGV[4] then
      return expires_at(facts) > tonumber(ARGV[5]) and 1 or 0
    end
  end
end
return 0
