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

-- Most hashes of a small registry do not exist: many are asked for at once.
local GROUP = 64

local function names_from(from, to)
  local names = {}
  for n = from, to do
    names[#names + 1] = string.format('%s%s:%04x', prefix, index, n)
  end
  return names
end

last = math.min(last, BUCKETS - 1)
local number, present_to = first, first - 1
while number <= last and #entries < 3 * most do
  if number > present_to then
    present_to = math.min(number + GROUP - 1, last)
    if redis.call('EXISTS', unpack(names_from(number, present_to))) == 0 then
      number = present_to + 1
    end
  end
  if number <= present_to then
    local flat = redis.call('HGETALL', names_from(number, number)[1])
    for f = 1, #flat, 2 do
      local at = #entries
      entries[at + 1], entries[at + 2], entries[at + 3] = number, flat[f], flat[f + 1]
      for n in string.gmatch(flat[f + 1], '%d+') do
        read(tonumber(n))
      end
    end
    number = number + 1
  end
end
return { number, entries, documents }
