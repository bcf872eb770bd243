-- Reads an index from one of its hashes on, with the devices that its entries lead to.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 index: `i`, `k`, `u`; 3 number of the first hash; 4 how many hashes at most; 5 how many
--       entries, about
-- Returns { number of the next hash, { number, field, value, .. }, { ordinal, document or '', .. } }

-- include: document
-- layout: BUCKETS

local prefix, index = ARGV[1], ARGV[2]
local first, last, most = tonumber(ARGV[3]), tonumber(ARGV[3]) + tonumber(ARGV[4]) - 1, tonumber(ARGV[5])
local entries, documents, seen = {}, {}, {}

local function read(n)
  if not seen[n] then
    seen[n] = true
    local at = #documents
    documents[at + 1], documents[at + 2] = n, document_of(prefix, n)
  end
end

local number = first
while number <= math.min(last, BUCKETS - 1) and #entries < 3 * most do
  local flat = redis.call('HGETALL', prefix .. index .. string.format(':%04x', number))
  for f = 1, #flat, 2 do
    local at = #entries
    entries[at + 1], entries[at + 2], entries[at + 3] = number, flat[f], flat[f + 1]
    for n in string.gmatch(flat[f + 1], '%d+') do
      read(tonumber(n))
    end
  end
  number = number + 1
end
return { number, entries, documents }
