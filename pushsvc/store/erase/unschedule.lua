-- Removes targets from a push that is still scheduled: they end as cancelled, the others continue to wait.
--
-- None of it is in a lane yet, so this is one step. A push without remaining targets is done.
--
-- KEYS  1 ps:T:scheduled; 2 ps:T:pending; 3 ps:T:s:<id>; 4 ps:T:p:<id>
-- ARGV  1 prefix `ps:T:`; 2 push id; 3 now ms; 4 status TTL ms; 5 dead-letter TTL ms; 6 number of chunks that
--       change, then for each: its place in the list, its present form, its new form or '', the number of targets that
--       it keeps; then for each removed target: index, encoded row of a small push, or member of a large one (see
--       settle.lua)
-- Returns the number of removed targets, or -1 where something was changed at the same time.

-- include: retire

-- layout: FEW

local prefix, id, chunks = ARGV[1], ARGV[2], tonumber(ARGV[6])
local behind = 7 + 4 * chunks
for at = 7, behind - 1, 4 do
  if redis.call('LINDEX', KEYS[3], ARGV[at] + 3) ~= ARGV[at + 1] then
    return -1
  end
end

local went = (#ARGV - behind + 1) / 2
for at = 7, behind - 1, 4 do
  local place = tonumber(ARGV[at])
  if ARGV[at + 2] == '' then
    for part = place, place + 3 do
      redis.call('LSET', KEYS[3], part, 'gone')
    end
  else
    redis.call('LSET', KEYS[3], place + 2, ARGV[at + 3])
    redis.call('LSET', KEYS[3], place + 3, ARGV[at + 2])
  end
end
redis.call('LREM', KEYS[3], 0, 'gone')
redis.call('HINCRBY', KEYS[2], 'scheduled', -went)

local total = tonumber(redis.call('HGET', KEYS[4], 'n') or 0)
if total > 0 then
  for at = behind, #ARGV, 2 do
    if total <= FEW then
      redis.call('HSET', KEYS[4], ARGV[at], ARGV[at + 1])
    else
      redis.call('SETBIT', prefix .. 'b:' .. id, ARGV[at], 1)
      redis.call('ZADD', prefix .. 'r:' .. id, ARGV[at], ARGV[at + 1])
    end
  end
  redis.call('HINCRBY', KEYS[4], 'n:cancelled', went)
  redis.call('HSET', KEYS[4], 'up', ARGV[3])
end
if redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('ZREM', KEYS[1], id)
  redis.call('ZREM', prefix .. 'urgent', id)
  redis.call('ZREM', prefix .. 'normal', id)
  if total > 0 then
    redis.call('HSET', KEYS[4], 'st', 'done')
    retire(prefix, id, total > FEW, ARGV[4], ARGV[5])
  end
end
return went
