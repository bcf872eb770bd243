-- Brings records of turns from format 1 of the store to format 2, some fields at a time: those of a large push had a field
-- for each delivery, as those of a small push still have. A repeat changes nothing.
--
-- KEYS  1 ps:T:t:<id>; 2 ps:T:p:<id>
-- ARGV  1 where to continue, or 0; 2 how many fields, about
-- Returns where to continue, or 0 at the end.

-- include: turns
-- layout: FEW

local count, audience = unpack(redis.call('HMGET', KEYS[2], 'n', 'x'))
if not audience and tonumber(count or 0) <= FEW then
  return '0'
end
local following, fields = unpack(redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2]))
local gone, set = {}, {}
for at = 1, #fields, 2 do
  local index = string.match(fields[at], '^%d+$')
  if index then
    gone[#gone + 1] = index
    set[#set + 1] = tonumber(index)
    set[#set + 1] = fields[at + 1]
  end
end
write_turns(KEYS[1], true, {}, set)
write_turns(KEYS[1], false, gone, {})
return following
