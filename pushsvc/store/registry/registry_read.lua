-- Reads devices by their ordinals.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; then ordinals
-- Returns for each its document, or '' where there is none.

-- include: document

local documents = {}
for i = 2, #ARGV do
  documents[i - 1] = document_of(ARGV[1], tonumber(ARGV[i]))
end
return documents
