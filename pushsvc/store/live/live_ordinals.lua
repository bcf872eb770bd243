-- Returns the ordinals of devices, or -1 for each that is unknown.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; then the digests of the devices' ids

-- include: live_stream

local answer = {}
for i = 2, #ARGV do
  answer[i - 1] = ordinal_of(ARGV[1], ARGV[i]) or -1
end
return answer
