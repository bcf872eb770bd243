-- Reads devices by what they are known by, each once.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 number of ids; 3 number of tokens; 4 most devices, about; then digests of ids, of
--       tokens, and of users
-- Returns { { ordinal that the index knows, or '', of each id and token .. }, users read, the next new device's
-- ordinal, then ordinal, document, .. }. Of the users it reads at least one, and no more once there are more devices than asked for.

-- include: document

local prefix = ARGV[1]
local ids, tokens, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local known, answer, seen = {}, { {}, 0, tonumber(redis.call('HGET', KEYS[1], 'next') or 0) }, {}

local function look_up(kind, digest)
  return redis.call('HGET', prefix .. kind .. string.format(':%02x%02x', string.byte(digest, 1, 2)), string.sub(digest, 3))
end

-- A block of which at least this many documents are read is read whole: that costs the server less than a command for each.
local MANY = BLOCK / 2
local blocks, counts = {}, {}

local function read(n)
  if not seen[n] then
    seen[n] = true
    local block = blocks[math.floor(n / BLOCK)]
    local document = block and block[1 + n % BLOCK] or document_of(prefix, n)
    if document ~= '' then
      local at = #answer
      answer[at + 1], answer[at + 2] = n, document
    end
  end
end

for i = 1, ids + tokens do
  local n = look_up(i <= ids and 'i' or 'k', ARGV[4 + i])
  known[i] = n or ''
  if n then
    local block = math.floor(n / BLOCK)
    counts[block] = (counts[block] or 0) + 1
  end
end
for block, count in pairs(counts) do
  if count >= MANY then
    blocks[block] = redis.call('LRANGE', string.format('%sd:%d', prefix, block), 1, -1)
  end
end
for i = 1, ids + tokens do
  if known[i] ~= '' then
    read(tonumber(known[i]))
  end
end
local users = 0
for i = 5 + ids + tokens, #ARGV do
  if users > 0 and #answer > 2 * most + 1 then
    break
  end
  users = users + 1
  local list = look_up('u', ARGV[i])
  for n in string.gmatch(list or '', '%d+') do
    read(tonumber(n))
  end
end
answer[1], answer[2] = known, users
return answer
