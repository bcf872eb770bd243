-- Reads devices by their ordinals.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; then ordinals
-- Returns for each its document, or '' where there is none.

local documents = {}
for i = 2, #ARGV do
  local n = tonumber(ARGV[i])
  local block = string.format('%s%s%d', ARGV[1], 'd:', math.floor(n / 128))
  documents[i - 1] = redis.call('LINDEX', block, 1 + n % 128) or ''
end
return documents
