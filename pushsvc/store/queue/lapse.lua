-- Takes entries whose time is over and that no consumer has read, although others stand before them.
--
-- A pending entry is left to its consumer. What is taken here remains unread for the group: it is deleted when it is
-- settled, and where it is handed out before that, the fence knows what of it has ended.
--
-- KEYS  1 a stream
-- ARGV  1 group; 2 the consumer that takes them; then ids
-- Returns the entries as id, blob, id, blob, ..

local key, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local entries = {}
for at = 3, #ARGV do
  local pending = redis.pcall('XPENDING', key, group, ARGV[at], ARGV[at], 1)
  if pending.err then
    if not string.find(pending.err, 'NOGROUP', 1, true) then
      return redis.error_reply(pending.err)
    end
    break
  end
  if #pending == 0 then
    local entry = redis.call('XCLAIM', key, group, consumer, 0, ARGV[at], 'FORCE')[1]
    if entry and entry[2] then
      entries[#entries + 1] = entry[1]
      entries[#entries + 1] = entry[2][2] or ''
    end
  end
end
return entries
