-- Returns the ordinals of devices and their documents, or -1 and '' for each that is unknown.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; then the digests of the devices' ids

-- include: live_stream
-- include: document

local answer = {}
for i = 2, #ARGV do
  local n = ordinal_of(ARGV[1], ARGV[i])
  answer[i - 1] = { n or -1, n and document_of(ARGV[1], n) or '' }
end
return answer
