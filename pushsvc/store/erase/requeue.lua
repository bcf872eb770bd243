-- Moves an entry of a lane behind the others with fewer targets, or deletes it where none is left.
--
-- It does so only where no consumer works on the entry, or a dead one did: another consumer may be sending it. The
-- consumer that had the entry may answer later: the new entry has the field `a`, so that its reader asks the fence (see
-- take.lua).
--
-- KEYS  1 ps:T:q:<platform>:<lane>
-- ARGV  1 group; 2 entry id; 3 the dead consumer that had the entry, or ''; 4 number of remaining targets, or '' to
--       inspect only; 5 encoded chunk with these targets, or '' where there are none
-- Returns { 1 }, { 0 } where the entry does not exist, or { -1, the consumer that has it }.

local key, group, id, gone, count, chunk = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if #redis.call('XRANGE', key, id, id) == 0 then
  return { 0 }
end
local pending = redis.pcall('XPENDING', key, group, id, id, 1)
if pending.err then
  if not string.find(pending.err, 'NOGROUP', 1, true) then
    return redis.error_reply(pending.err)
  end
elseif #pending > 0 then
  if pending[1][2] ~= gone then
    return { -1, pending[1][2] }
  end
  if count ~= '' then
    redis.call('XACK', key, group, id)
  end
end
if count == '' then
  return { 1 }
end
redis.call('XDEL', key, id)
if chunk ~= '' then
  redis.call('XADD', key, '*', 'c', chunk, 'n', count, 'a', 1)
end
return { 1 }
