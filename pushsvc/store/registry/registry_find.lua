-- Reads devices by what they are known by, for each of some questions each device once.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; then for each question: number of ids, of tokens and of users; most devices, about; then
--       digests of ids, of tokens, and of users
-- Returns for each question, or for the first ones that have about `ENOUGH` documents together, { { ordinal that the
-- index knows, or '', of each id and token .. }, users read, the next new device's ordinal, then ordinal, document,
-- .. }. Of the users it reads at least one, and no more once there are more devices than asked for.

-- include: document

-- A block of which at least this many documents are read is read whole: that costs the server less than a command for
-- each.
local MANY = BLOCK / 2
local HEAD = 4 -- arguments of a question before the digests
local ENOUGH = 500 -- documents of a step, which keeps others from the server for a few milliseconds

local prefix, following = ARGV[1], tonumber(redis.call('HGET', KEYS[1], 'next') or 0)
local blocks, answer, seen

local function look_up(kind, digest)
  local bucket = string.format(':%02x%02x', string.byte(digest, 1, 2))
  return redis.call('HGET', prefix .. kind .. bucket, string.sub(digest, 3))
end

-- Reads the blocks of which `known` are many ordinals.
local function read_blocks(known)
  local counts = {}
  for i = 1, #known do
    local block = known[i] ~= '' and math.floor(known[i] / BLOCK)
    if block then
      counts[block] = (counts[block] or 0) + 1
    end
  end
  for block, count in pairs(counts) do
    if count >= MANY then
      blocks[block] = redis.call('LRANGE', string.format('%sd:%d', prefix, block), 1, -1)
    end
  end
end

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

local answers, at, places = {}, 2, 0
while at <= #ARGV and places < 2 * ENOUGH do
  local ids, tokens, most = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 3])
  local first, known = at + HEAD, {}
  local first_user = first + ids + tokens
  at = first_user + tonumber(ARGV[at + 2])
  blocks, answer, seen = {}, { known, 0, following }, {}
  for i = first, first_user - 1 do
    known[#known + 1] = look_up(i - first < ids and 'i' or 'k', ARGV[i]) or ''
  end
  if #known >= MANY then
    read_blocks(known)
  end
  for i = 1, #known do
    if known[i] ~= '' then
      read(tonumber(known[i]))
    end
  end
  for i = first_user, at - 1 do
    if i > first_user and #answer > 2 * most + 1 then
      break
    end
    answer[2] = answer[2] + 1
    for n in string.gmatch(look_up('u', ARGV[i]) or '', '%d+') do
      read(tonumber(n))
    end
  end
  answers[#answers + 1] = answer
  places = places + #answer
end
return answers
