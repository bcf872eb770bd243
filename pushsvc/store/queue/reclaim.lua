-- Takes over what consumers that are gone have left unacknowledged, and removes those that own nothing any more.
--
-- One step for the listing and the claim, so that of two processes that try at once each entry goes to one.
--
-- KEYS  1 a stream
-- ARGV  1 group; 2 the consumer that takes over; 3 how many entries at most; then the consumers that are gone
-- Returns the entries as id, blob, id, blob, ..

local room = tonumber(ARGV[3])
local entries = {}
for c = 4, #ARGV do
  local ids = {}
  if room > 0 then
    for _, row in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', room, ARGV[c])) do
      ids[#ids + 1] = row[1]
    end
  end
  if #ids > 0 then
    room = room - #ids
    local there = {}
    for _, entry in ipairs(redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ids))) do
      if entry and entry[2] then
        there[entry[1]] = true
        entries[#entries + 1] = entry[1]
        entries[#entries + 1] = entry[2][2] or ''
      end
    end
    for i = 1, #ids do
      if not there[ids[i]] then -- deleted from the stream: nothing is left to do
        redis.call('XACK', KEYS[1], ARGV[1], ids[i])
      end
    end
  end
  if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[c]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[c])
  end
end
return entries
