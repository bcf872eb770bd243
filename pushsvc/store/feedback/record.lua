-- Records what came of receipts: events appended, tokens suppressed, receipts acknowledged, in one step.
--
-- A receipt that is acknowledged already changes nothing, so that the step may run twice.
--
-- Whoever reads the events by a cursor is to see when some went before it had them: what retention removes leaves the
-- id of the last one. Up to a hundred more than are to be kept may stand there, and a thousand go in one step.
--
-- KEYS  1 ps:T:receipts; 2 ps:T:events; 3 ps:T:gone
-- ARGV  1 prefix `ps:T:`; 2 group; 3 most events to keep, about; 4 the oldest event to keep, ms;
--       5 the oldest suppression to keep, ms; then for each receipt:
--         entry id, encoded event or '', route to suppress on or '', token digest, at ms
-- Returns how many receipts were recorded.

local recorded = 0
local touched = {}
for at = 6, #ARGV, 5 do
  local id, event, route, digest, since = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  if redis.call('XACK', KEYS[1], ARGV[2], id) == 1 then
    recorded = recorded + 1
    redis.call('XDEL', KEYS[1], id)
    if event ~= '' then
      redis.call('XADD', KEYS[2], '*', 'e', event)
    end
    if route ~= '' then
      redis.call('ZADD', ARGV[1] .. 'sup:' .. route, since, digest)
      touched[route] = true
    end
  end
end
if recorded > 0 then
  local oldest = string.format('%.0f', math.max(0, ARGV[4] - 1))
  local last = redis.call('XREVRANGE', KEYS[2], oldest, '-', 'COUNT', 1)[1]
  local over = redis.call('XLEN', KEYS[2]) - ARGV[3]
  if not last and over >= 100 then
    local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', math.min(over, 1000))
    last = first[#first]
  end
  if last then
    local ms, sequence = last[1]:match('^(%d+)-(%d+)$')
    redis.call('XTRIM', KEYS[2], 'MINID', ms .. '-' .. string.format('%.0f', sequence + 1))
    redis.call('SET', KEYS[3], last[1])
  end
  for route in pairs(touched) do
    redis.call('ZREMRANGEBYSCORE', ARGV[1] .. 'sup:' .. route, '-inf', '(' .. ARGV[5])
  end
end
return recorded
