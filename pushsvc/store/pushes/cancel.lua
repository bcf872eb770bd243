-- Cancels a push: nothing more of it is sent. Dispatchers receive a revocation, and find the mark in later entries.
--
-- A push that is done stays done. A repeat changes nothing. A scheduled push is not in any lane: its chunks are deleted
-- here, and no dispatcher is involved. A push that is being expanded takes no further step and keeps the deliveries
-- that it has. Where none of them is open, its status has a lifetime from now on. `ck` states that every dispatcher has
-- dropped the push; it is set here where there is no dispatcher to wait for.
--
-- KEYS  1 ps:T:p:<id>; 2 ps:T:cancelled; 3 ps:T:epoch; 4 ps:T:s:<id>; 5 ps:T:scheduled; 6 ps:T:pending;
--       7 ps:T:x:<id>; 8 ps:T:revoked; 9 ps:T:heard; from 10 on ps:T:expansions:<lane> of each lane
-- ARGV  1 push id; 2 now ms; 3 status TTL ms; 4 dead-letter TTL ms; 5 ms for which a delivery may be open;
--       6 lifetime of a revocation ms; then the fields to return
-- Returns the values of those fields after the step; of a push that was scheduled platform, count, platform, count,
-- .. of what has ended here; the revocation to wait for, or ''; and 1 if some of it may have been taken to be sent. Or false
-- for a push that is not known.

-- include: retire

local prefix = string.match(KEYS[1], '^ps:%b{}:')

local state, total, place, confirmed, retrying = unpack(redis.call('HMGET', KEYS[1], 'st', 'n', 'cx', 'ck', 'rt'))
if not state then
  return false
end
local ended = {}
if state ~= 'done' and state ~= 'cancelled' then
  redis.call('HSET', KEYS[1], 'st', 'cancelled', 'up', ARGV[2])
  redis.call('DEL', KEYS[7])
  for k = 10, #KEYS do
    redis.call('ZREM', KEYS[k], ARGV[1])
  end
  if state == 'scheduled' then
    local parts, gone = redis.call('LRANGE', KEYS[4], 0, -1), 0
    for at = 1, #parts, 4 do
      ended[#ended + 1] = parts[at]
      ended[#ended + 1] = tonumber(parts[at + 2])
      gone = gone + tonumber(parts[at + 2])
    end
    redis.call('DEL', KEYS[4])
    redis.call('ZREM', KEYS[5], ARGV[1])
    redis.call('ZREM', prefix .. 'urgent', ARGV[1])
    redis.call('ZREM', prefix .. 'normal', ARGV[1])
    redis.call('HINCRBY', KEYS[6], 'scheduled', 0 - gone) -- -0 is no integer to Redis
    confirmed = '1'
  elseif ended_of_push(KEYS[1]) == tonumber(total) then
    confirmed = '1'
  else
    redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[2] - ARGV[5])
    if tonumber(retrying or 0) > 0 then
      redis.call('HSET', prefix .. 'recalled', ARGV[1], 0) -- what waits for its retry is due now: see promote.lua
    end
    local oldest = string.format('%.0f', ARGV[2] - ARGV[6])
    place = redis.call('XADD', KEYS[8], 'MINID', '~', oldest, '*', 'p', ARGV[1])
    redis.call('PEXPIRE', KEYS[8], ARGV[6])
    redis.call('SET', KEYS[3], place)
    redis.call('HSET', KEYS[1], 'cx', place)
    confirmed = redis.call('HLEN', KEYS[9]) == 0 and '1'
  end
  if confirmed then
    redis.call('HSET', KEYS[1], 'ck', 1)
  end
  if not place then
    retire(prefix, ARGV[1], true, ARGV[3], ARGV[4])
  end
end
return { redis.call('HMGET', KEYS[1], unpack(ARGV, 7)), ended, not confirmed and place or '', place and 1 or 0 }
