-- Returns whether a token of a device is valid; a call with a valid one is a sign of life.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 digest of the device's id; 3 when the token was issued, ms; 4 now ms
-- Returns { '', 1 if the device is a tombstone }, { 'unknown' } or { 'revoked' }

-- include: live_stream
-- include: document
-- include: device_seen

local prefix, digest = ARGV[1], ARGV[2]
local n = ordinal_of(prefix, digest)
if not n then
  return { 'unknown' }
elseif is_refused(prefix, digest, ARGV[3]) then
  return { 'revoked' }
end
return { '', note_life(prefix, n, tonumber(ARGV[4])) }
