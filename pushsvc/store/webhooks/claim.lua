-- Takes a webhook for its owner, unless another process has it or it rests. By this server's clock.
--
-- What one receiver has asked for, or was found to take, says nothing of another: at a new place nothing rests, and
-- failures and the size of a call start afresh.
--
-- KEYS  1 ps:T:hook
-- ARGV  1 owner; 2 ms until others may have it; 0: only look; 3 the place that it leads to
-- Returns the ms until it is free; 0: it is, or was.

local before, owner, place = unpack(redis.call('HMGET', KEYS[1], 'until', 'own', 'at'))
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local left = tonumber(before or 0) - now
local moved = place ~= ARGV[3]
if left > 0 and (owner or not moved) then
  return left
end
if tonumber(ARGV[2]) > 0 then
  local free = string.format('%.0f', now + tonumber(ARGV[2]))
  redis.call('HSET', KEYS[1], 'own', ARGV[1], 'until', free, 'at', ARGV[3])
  if moved then
    redis.call('HDEL', KEYS[1], 'fails', 'why', 'since', 'tries', 'most')
  end
end
return 0
