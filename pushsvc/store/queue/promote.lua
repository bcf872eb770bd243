-- Moves retries that are due back into their lanes. Several processes may do so at once: each member moves once.
--
-- KEYS  1 ps:T:retry:<platform>; 2 ps:T:pending; 3 ps:T:quarantine
-- ARGV  1 prefix `ps:T:`; 2 platform; 3 now ms; 4 how many members at most
-- Returns how many deliveries were moved.

local moved = 0
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[3], 'LIMIT', 0, ARGV[4])
for m = 1, #due do
  local member = due[m]
  -- `<lane> <number of targets> <encoded chunk>`
  local first = string.find(member, ' ', 1, true) or 0
  local second = string.find(member, ' ', first + 1, true) or 0
  local count = tonumber(string.sub(member, first + 1, second - 1))
  if first > 1 and second > first and count then
    local lane = string.sub(member, 1, first - 1)
    redis.call('XADD', ARGV[1] .. 'q:' .. ARGV[2] .. ':' .. lane, '*', 'c', string.sub(member, second + 1), 'n', count)
    moved = moved + count
  else
    redis.call('XADD', KEYS[3], '*', 'b', member, 'from', KEYS[1], 'id', '', 'why', 'not a retry')
  end
  redis.call('ZREM', KEYS[1], member)
end
if moved > 0 then
  redis.call('HINCRBY', KEYS[2], ARGV[2] .. ':retry', -moved)
end
return moved
