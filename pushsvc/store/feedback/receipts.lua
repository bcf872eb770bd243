-- Reads receipts: those that this consumer has not recorded yet come first, then new ones.
--
-- KEYS  1 ps:T:receipts
-- ARGV  1 group; 2 consumer; 3 how many at most
-- Returns the entries as id, blob, id, blob, ..

local room = tonumber(ARGV[3])
local entries = {}
for _, from in ipairs({ '0', '>' }) do
  if room > 0 then
    local read = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', room, 'STREAMS', KEYS[1], from)
    if read and read.err then
      if not string.find(read.err, 'NOGROUP', 1, true) then
        return redis.error_reply(read.err)
      end
      redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
    elseif read then
      for _, entry in ipairs(read[1][2]) do
        if entry[2] then
          room = room - 1
          entries[#entries + 1] = entry[1]
          entries[#entries + 1] = entry[2][1] == 'r' and entry[2][2] or ''
        else -- deleted from the stream: nothing is left to do
          redis.call('XACK', KEYS[1], ARGV[1], entry[1])
        end
      end
    end
  end
end
return entries
