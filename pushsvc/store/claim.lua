-- Takes a webhook for its owner, unless somebody has it or it rests. By this server's clock.
--
-- KEYS  1 ps:T:hook
-- ARGV  1 owner; 2 ms until others may have it; 0: only look
-- Returns the ms until it is free; 0: it is, or was.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local left = tonumber(redis.call('HGET', KEYS[1], 'until') or 0) - now
if left > 0 then
  return left
end
if tonumber(ARGV[2]) > 0 then
  redis.call('HSET', KEYS[1], 'own', ARGV[1], 'until', string.format('%.0f', now + tonumber(ARGV[2])))
end
return 0
