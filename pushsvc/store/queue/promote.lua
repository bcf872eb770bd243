-- Moves retries that are due back into their lanes. Several processes may do so at once: each member moves once.
--
-- What a device may acknowledge is looked at now and then before it is due: it leaves the set once all of it has ended.
-- A step ends behind the member with which it has seen enough targets.
--
-- KEYS  1 ps:T:retry:<channel>; 2 ps:T:pending; 3 ps:T:quarantine
-- ARGV  1 prefix `ps:T:`; 2 channel; 3 now ms; 4 how many members at most; 5 how many targets, about; 6 1 where the channel
--       is a provider
-- Returns how many deliveries were moved, 1 where more may be due, and how many were not acknowledged in time.

-- include: fence
-- include: waiting

local prefix, now, room = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[5])
local moved, gone, seen, late = 0, 0, 0, 0
local members = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[3], 'LIMIT', 0, ARGV[4])
while seen < #members and room > 0 do
  seen = seen + 1
  local member = members[seen]
  local lane, guard, count, chunk = parts_of(member)
  room = room - (count or 1)
  local due, open, id, index, records = now, count
  if not lane then
    redis.call('XADD', KEYS[3], '*', 'b', member, 'from', KEYS[1], 'id', '', 'why', 'not a retry')
  elseif guard ~= '' then
    due, open, id, index, records = read_guard(prefix, guard)
  end
  if lane and open > 0 and due > now then
    redis.call('ZADD', KEYS[1], look_at(due, guard, now + LATER_LOOK), member)
  else
    redis.call('ZREM', KEYS[1], member)
    gone = gone + (count or 0)
    if lane and open > 0 then
      redis.call('XADD', prefix .. 'q:' .. ARGV[2] .. ':' .. lane, '*', 'c', chunk, 'n', count)
      moved = moved + open
      if id and due > 0 and ARGV[6] == '1' then
        late = late + carry_on(prefix, id, index, records)
      end
    end
  end
end
if gone > 0 then
  redis.call('HINCRBY', KEYS[2], ARGV[2] .. ':retry', -gone)
end
return { moved, (seen < #members or seen == tonumber(ARGV[4])) and 1 or 0, late }
