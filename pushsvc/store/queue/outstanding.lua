-- Which targets of some chunks still await an outcome in the chunk's turn. For chunks that are taken over.
--
-- KEYS  1 ps:T:pending
-- ARGV  1 prefix `ps:T:`; 2 MessagePack of { push id, total, turn, indexes, whether all has ended if there is no status }
--       for each chunk
-- Returns for each chunk the indexes that are open, or false where another version has recorded their turns.

-- include: turns
-- include: fence

local chunks = cmsgpack.unpack(ARGV[2])
local found = {}
for c = 1, #chunks do
  local id, total, turn, index, over = unpack(chunks[c])
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
  found[c] = recorded ~= false and left
end
return found
