-- Moves retries that are due back into their lanes. Several processes may do so at once: each member moves once.
--
-- What a device may acknowledge is looked at now and then before it is due: it leaves the set once all of it has ended.
-- What waits of a push that was cancelled is due at once. A step ends behind the member with which it has seen enough
-- targets. Urgent ones go first and then normal ones, however many others are due: no step takes any of those before them.
--
-- KEYS  1 ps:T:retry:<channel>; 2 ps:T:pending; 3 ps:T:quarantine; 4 ps:T:recalled; 5 ps:T:urgent:<channel>;
--       6 ps:T:normal:<channel>
-- ARGV  1 prefix `ps:T:`; 2 channel; 3 now ms; 4 how many members at most; 5 how many targets, about; 6 1 where the channel
--       is a provider
-- Returns how many deliveries were moved, 1 where more may be due, and how many were not acknowledged in time.

-- include: turns
-- include: fence
-- include: waits
-- include: waiting

local PUSHES, FIELDS = 20, 1000 -- of cancelled pushes, in one step

local prefix, channel, now, most, room = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local moved, seen, late, waited = 0, 0, 0, { ack = 0, retry = 0 }

-- What waits of a push that was cancelled is due now, in every retry set, from a cursor of its turns on.
local function recall(id, cursor)
  local turns = prefix .. 't:' .. id
  local found = redis.call('HSCAN', turns, cursor, 'MATCH', '@*', 'COUNT', FIELDS)
  for at = 1, #found[2], 2 do
    local place, score = string.match(found[2][at], '^@(%S+) (%d+)$')
    local key = prefix .. 'retry:' .. place
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, score, score)) do
      local lane, guard, _, chunk = parts_of(member)
      if lane and push_of(guard, chunk) == id then
        redis.call('ZADD', key, 0, member)
      end
    end
    redis.call('HDEL', turns, found[2][at])
  end
  if found[1] == '0' then
    redis.call('HDEL', KEYS[4], id)
  else
    redis.call('HSET', KEYS[4], id, found[1])
  end
end

local recalled = redis.call('HSCAN', KEYS[4], 0, 'COUNT', PUSHES)[2]
for at = 1, math.min(#recalled, 2 * PUSHES), 2 do
  recall(recalled[at], recalled[at + 1])
end

-- Puts a member back into the retry set, to be looked at then.
local function add_waiting(lane, look, member)
  redis.call('ZADD', KEYS[1], look, member)
  if lane ~= 'bulk' then
    redis.call('ZADD', prefix .. lane .. ':' .. channel, look, look)
  end
end

-- Moves a member that is due, or looks at it again later: afterwards it is not in the set with this score.
local function move(member, score)
  seen = seen + 1
  local lane, guard, count, chunk = parts_of(member)
  room = room - (count or 1)
  local why, due, open, id, index, records, large = 'not a retry', now, count, nil, {}, {}, false
  if lane and guard ~= '' then
    why, due, open, id, index, records, large = 'unknown version of its turns', read_guard(prefix, guard)
  end
  if not lane or not due then
    lane = nil
    redis.call('XADD', KEYS[3], '*', 'b', member, 'from', KEYS[1], 'id', '', 'why', why)
  end
  local turns = lane and prefix .. 't:' .. (id or push_of(guard, chunk))
  if lane and open > 0 and due > now then
    local look = look_at(due, guard, now + LATER_LOOK)
    add_waiting(lane, look, member)
    redis.call('HDEL', turns, place_field(channel, score))
    redis.call('HSET', turns, place_field(channel, look), 1)
  else
    redis.call('ZREM', KEYS[1], member)
    if lane then
      redis.call('HDEL', turns, place_field(channel, score))
    end
    if lane and open > 0 then
      redis.call('XADD', prefix .. 'q:' .. channel .. ':' .. lane, '*', 'c', chunk, 'n', count)
      local carried_on = due > 0 and ARGV[6] == '1'
      local acks = id and leave(prefix, id, index, records, large, carried_on) or 0
      waited.ack, waited.retry = waited.ack + acks, waited.retry + open - acks
      moved = moved + open
      late = late + (carried_on and acks or 0)
    end
  end
end

-- A member of this lane or of one before it with this score, or nothing: of one score they are behind those of the later
-- lanes, by their bytes.
local function member_at(score, lane)
  local last = redis.call('ZREVRANGEBYSCORE', KEYS[1], score, score, 'LIMIT', 0, 1)[1]
  return last and last >= lane and last
end

for l, lane in ipairs({ 'urgent', 'normal' }) do
  for _, score in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4 + l], '-inf', ARGV[3], 'LIMIT', 0, most - seen)) do
    local member = member_at(score, lane)
    while member and seen < most and room > 0 do
      move(member, score)
      member = member_at(score, lane)
    end
    if member then
      break
    end
    redis.call('ZREM', KEYS[4 + l], score)
  end
end
local members = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[3], 'WITHSCORES', 'LIMIT', 0, most - seen)
for at = 1, #members, 2 do
  if room <= 0 then
    break
  end
  move(members[at], string.format('%.0f', members[at + 1]))
end
for kind, count in pairs(waited) do
  if count > 0 then
    redis.call('HINCRBY', KEYS[2], channel .. ':' .. kind, -count)
  end
end
return { moved, (seen == most or room <= 0) and 1 or 0, late }
