-- Replaces rows of deliveries by rows without the user's data, each only where it is unchanged.
--
-- KEYS  1 ps:T:p:<id> or ps:T:r:<id>
-- ARGV  for each row, or member with rows: index, its present encoded form, its new encoded form
-- Returns the number of replaced rows.

local done = 0
local sorted = redis.call('TYPE', KEYS[1]).ok == 'zset'
for at = 1, #ARGV, 3 do
  local index, before, after = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if sorted then
    if redis.call('ZREM', KEYS[1], index .. ' ' .. before) == 1 then
      redis.call('ZADD', KEYS[1], index, index .. ' ' .. after)
      done = done + 1
    end
  elseif redis.call('HGET', KEYS[1], index) == before then
    redis.call('HSET', KEYS[1], index, after)
    done = done + 1
  end
end
return done
