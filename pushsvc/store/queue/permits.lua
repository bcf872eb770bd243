-- Asks the limits for the entries that a read on the same connection has just handed out, so that the reader need not.
--
-- They are behind all that the consumer has met before, and were handed out once; what it has taken over was counted, or
-- may have been. Of an entry to one target its writer has left the digest by which the limits know the token (`l`); it
-- is not left where the limits of that token are in another slot.
--
-- KEYS  1 ps:T:q:<platform>:<lane>; 2 ps:T:lim:<platform>:all
-- ARGV  1 group; 2 consumer; 3 the last entry that the consumer has met; 4 entries at most: of more, which a question of
--       the reader serves better, nothing is asked; 5 to 8 as limiter.lua, 2 to 5
-- Returns for each entry that was asked for: id, wait ms; 0 is none, and then it is counted.

-- include: admit

local most = tonumber(ARGV[4])
local rows = redis.call('XPENDING', KEYS[1], ARGV[1], '(' .. ARGV[3], '+', most + 1, ARGV[2])
local fresh, first, last = {}, nil, nil
for _, row in ipairs(#rows <= most and rows or {}) do
  if row[4] == 1 then
    fresh[row[1]] = true
    first, last = first or row[1], row[1]
  end
end
if not first then
  return {}
end
local answer, digests = {}, {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], first, last)) do
  local id, fields = unpack(entry)
  if fresh[id] and fields[5] == 'l' then
    answer[#answer + 1], answer[#answer + 2] = id, 0
    digests[#digests + 1] = fields[6]
  end
end
if #digests > 0 then
  local waits = admit(KEYS[2], table.concat(digests), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]))
  for at = 1, #waits, 2 do
    answer[2 * waits[at] + 2] = waits[at + 1]
  end
end
return answer
