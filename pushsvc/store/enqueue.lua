-- Included by others: writes pushes, each as a status hash and its entries in the lanes.
--
-- From ARGV[at] on for each push: id, total, created at ms, due ms or 0 for at once, lifetime of its status in ms,
-- number of chunks, and for each chunk: platform, lane, number of targets, blob. A push whose id is known already is
-- left alone. The chunks of one that is scheduled wait beside the lanes until launch.lua moves them there; until then
-- its deliveries are counted as `scheduled`.

local function enqueue(prefix, at)
  local added = {}
  while at <= #ARGV do
    local id, total, created, due, chunks = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 5])
    local push = prefix .. 'p:' .. id
    local new = redis.call('EXISTS', push) == 0
    local later = due ~= '0' and total ~= '0'
    if new then
      local state = total == '0' and 'done' or later and 'scheduled' or 'sending'
      redis.call('HSET', push, 'n', total, 'st', state, 'at', created, 'up', created)
      redis.call('PEXPIRE', push, ARGV[at + 4])
    end
    if new and later then
      redis.call('HSET', push, 'due', due)
      redis.call('ZADD', prefix .. 'scheduled', due, id)
      added.scheduled = (added.scheduled or 0) + total
    end
    at = at + 6
    for _ = 1, chunks do
      local platform, name, count, blob = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
      if new and later then
        redis.call('RPUSH', prefix .. 's:' .. id, platform, name, count, blob)
      elseif new then
        local lane = platform .. ':' .. name
        redis.call('XADD', prefix .. 'q:' .. lane, '*', 'c', blob, 'n', count)
        added[lane] = (added[lane] or 0) + count
      end
      at = at + 4
    end
  end
  for field, count in pairs(added) do
    redis.call('HINCRBY', KEYS[1], field, count)
  end
end
