-- Records what came of receipts: events appended, tokens suppressed, receipts acknowledged, in one step.
--
-- A receipt that is acknowledged already changes nothing, so that the step may run twice.
--
-- KEYS  1 ps:T:receipts; 2 ps:T:events; 3 ps:T:gone
-- ARGV  1 prefix `ps:T:`; 2 group; 3 most events to keep, about; 4 the oldest event to keep, ms;
--       5 the oldest suppression to keep, ms; then for each receipt:
--         entry id, encoded event or '', route to suppress on or '', token digest, at ms
-- Returns how many receipts were recorded.

-- include: event_log

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
  trim_events(KEYS[2], KEYS[3], ARGV[3], ARGV[4])
  for route in pairs(touched) do
    redis.call('ZREMRANGEBYSCORE', ARGV[1] .. 'sup:' .. route, '-inf', '(' .. ARGV[5])
  end
end
return recorded
