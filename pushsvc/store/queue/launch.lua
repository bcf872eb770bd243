-- Launches scheduled pushes that are due: their chunks go into their lanes, and the push is being sent.
--
-- Several processes may do so at once, and one may cancel meanwhile: each push is launched or cancelled, once, by the
-- first one. A push is launched whole, so a call moves a little more than it was asked for at most. Where the
-- status is gone its deliveries travel all the same. After a failover a push may be scheduled again whose deliveries
-- have been sent and recorded: where all have ended nothing is left to launch. Urgent ones go first and then normal ones,
-- however many others are due.
--
-- KEYS  1 ps:T:scheduled; 2 ps:T:pending; 3 ps:T:urgent; 4 ps:T:normal
-- ARGV  1 prefix `ps:T:`; 2 now ms; 3 how many chunks, about
-- Returns how many pushes were launched.

local prefix, room = ARGV[1], tonumber(ARGV[3])
local change = {}

-- Moves the chunks of a push, or takes those of one that is over away; returns how many there were.
local function move(id, over)
  local key = prefix .. 's:' .. id
  local parts = redis.call('LRANGE', key, 0, -1)
  for at = 1, #parts, 4 do
    local lane, count = parts[at] .. ':' .. parts[at + 1], parts[at + 2]
    if not over then
      redis.call('XADD', prefix .. 'q:' .. lane, '*', 'c', parts[at + 3], 'n', count)
      change[lane] = (change[lane] or 0) + count
    end
    change.scheduled = (change.scheduled or 0) - count
  end
  redis.call('DEL', key)
  return #parts / 4
end

local launched = 0
for _, key in ipairs({ KEYS[3], KEYS[4], KEYS[1] }) do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', ARGV[2], 'LIMIT', 0, math.max(0, room))) do
    if room <= 0 then
      break
    end
    redis.call('ZREM', KEYS[3], id)
    redis.call('ZREM', KEYS[4], id)
    if redis.call('ZREM', KEYS[1], id) == 1 then
      local push = prefix .. 'p:' .. id
      local state = redis.call('HGET', push, 'st')
      room = room - move(id, state == 'done')
      if state == 'scheduled' then
        redis.call('HSET', push, 'st', 'sending', 'up', ARGV[2])
      end
      launched = launched + 1
    end
  end
end
for field, count in pairs(change) do
  redis.call('HINCRBY', KEYS[2], field, count)
end
return launched
