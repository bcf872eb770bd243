-- Says whether a token of a device is good.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 digest of the device's id; 3 when the token was issued, ms
-- Returns '', 'unknown' or 'revoked'

-- include: live_stream

local prefix, digest = ARGV[1], ARGV[2]
if not ordinal_of(prefix, digest) then
  return 'unknown'
end
return is_refused(prefix, digest, ARGV[3]) and 'revoked' or ''
