-- Included by others: what is removed from a log of events.

-- Removes what is older than `oldest` ms, or more than `most`. A reader with a cursor has to see that some
-- were removed before it had read them: the id of the last one stays in `gone`. Up to a hundred more than `most` may
-- remain, and at most a thousand are removed in one step.
local function trim_events(stream, gone, most, oldest)
  local before = string.format('%.0f', math.max(0, oldest - 1))
  local last = redis.call('XREVRANGE', stream, before, '-', 'COUNT', 1)[1]
  local over = redis.call('XLEN', stream) - most
  if not last and over >= 100 then
    local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', math.min(over, 1000))
    last = first[#first]
  end
  if last then
    local ms, sequence = last[1]:match('^(%d+)-(%d+)$')
    redis.call('XTRIM', stream, 'MINID', ms .. '-' .. string.format('%.0f', sequence + 1))
    redis.call('SET', gone, last[1])
  end
end
