-- Which targets of some chunks still await an outcome in the chunk's turn. For chunks that are taken over.
--
-- KEYS  1 ps:T:pending
-- ARGV  1 prefix `ps:T:`; 2 MessagePack of { push id, total, turn, indexes, whether all has ended if there is no status }
--       for each chunk
-- Returns for each chunk the indexes that are open, or false where another version has recorded their turns.

-- include: turns
-- include: fence

-- The open indexes of a chunk, or false.
local function open_of(id, total, turn, index, over)
  if total == 1 and turn == 1 then -- the only delivery of its push, of which nothing is recorded as a rule
    local state, retrying, row = unpack(redis.call('HMGET', ARGV[1] .. 'p:' .. id, 'st', 'rt', '0'))
    if state and (not retrying or retrying == '0') then
      return row and {} or index
    end
  end
  local status, open, _, recorded = fence(ARGV[1], id, total, turn, index, 0, '')
  if over and not status then
    open = {}
  end
  local left = {}
  for place = 1, #index do
    if open == true or open[place] then
      left[#left + 1] = index[place]
    end
  end
  return recorded ~= false and left
end

local chunks = cmsgpack.unpack(ARGV[2])
for c = 1, #chunks do
  chunks[c] = open_of(unpack(chunks[c]))
end
return chunks
