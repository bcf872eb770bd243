-- Included by others: writes pushes, each as a status hash and its entries in the lanes.
--
-- From ARGV[at] on for each push: id, total, created at ms, number of chunks, and for each chunk: platform, lane,
-- number of targets, blob. A push whose id is known already is left alone.

local function enqueue(prefix, ttl, at)
  local added = {}
  while at <= #ARGV do
    local id, total, created, chunks = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
    at = at + 4
    local push = prefix .. 'p:' .. id
    local new = redis.call('EXISTS', push) == 0
    if new then
      redis.call('HSET', push, 'n', total, 'st', total == '0' and 'done' or 'sending', 'at', created, 'up', created)
      redis.call('PEXPIRE', push, ttl)
    end
    for _ = 1, chunks do
      if new then
        local lane = ARGV[at] .. ':' .. ARGV[at + 1]
        redis.call('XADD', prefix .. 'q:' .. lane, '*', 'c', ARGV[at + 3], 'n', ARGV[at + 2])
        added[lane] = (added[lane] or 0) + ARGV[at + 2]
      end
      at = at + 4
    end
  end
  for lane, count in pairs(added) do
    redis.call('HINCRBY', KEYS[1], lane, count)
  end
end
