-- Included by other scripts: writes pushes, each as a status hash and its entries in the lanes.
--
-- The arguments from ARGV[at] on are for each push: id, total, created at ms, due ms or 0 for at once, status TTL in
-- ms, '' or `<lane> <size of the note> <note><encoded push>` with what its status notes of its audience (named.py), ''
-- or MessagePack of the content that its entries name (lifetime in ms, then name and encoded message of each variant),
-- its place in the list of pushes (listing.py), '' or the id of its trace, number of chunks, ms for which its
-- status stays or 0, and for each chunk: platform, lane, number of targets, blob.
-- A push whose id is known already does not change. The chunks of a scheduled push wait beside the lanes until
-- launch.lua moves them there; until then its deliveries are counted as `scheduled`. An encoded push has an audience:
-- it has no chunks yet, and expand.lua continues from here when the push is due. A status has no lifetime while
-- deliveries of its push are open, and the step that ends the last of them sets it; but that of a short single push has
-- it from here on (`settling.is_short`), so that it costs a queue nothing that has to be emptied fast.

-- layout: LISTED LISTED_ENTRIES

-- Appends the pushes of a step to the list of pushes. Each call of the server counts here: about one write in a hundred,
-- by the instant of its entry, cuts off what is too old or too much, and cleanup does so where nothing is written.
local function list_pushes(key, pushes, life)
  local id
  if #pushes <= LISTED then
    id = redis.call('XADD', key, '*', 'p', table.concat(pushes))
  else
    for first = 1, #pushes, LISTED do
      id = redis.call('XADD', key, '*', 'p', table.concat(pushes, '', first, math.min(first + LISTED - 1, #pushes)))
    end
  end
  if string.find(id, '00-', 11, true) then
    local oldest = string.match(id, '^%d+') - life
    redis.call('XTRIM', key, 'MINID', '~', string.format('%.0f', math.max(0, oldest)))
    redis.call('XTRIM', key, 'MAXLEN', '~', LISTED_ENTRIES)
  end
end

-- Notes of a scheduled push when it is due, and the API key, with which its place in the list of pushes ends.
local function note_schedule(push, due, listed)
  redis.call('HSET', push, 'due', due, 'k', string.sub(listed, 8 + string.byte(listed, 7)))
end

local function enqueue(prefix, at)
  local added, listed, life = {}, {}, nil
  while at <= #ARGV do
    local id, total, created, due, ttl = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
    local whole, content, chunks = ARGV[at + 5], ARGV[at + 6], tonumber(ARGV[at + 9])
    local push = prefix .. 'p:' .. id
    local new = redis.call('EXISTS', push) == 0
    local later = due ~= '0' and total ~= '0'
    if new and whole ~= '' then
      local record = prefix .. 'x:' .. id
      local state = due == '0' and 'expanding' or 'scheduled'
      local lane, size, start = string.match(whole, '^(%a+) (%d+) ()')
      local behind = start + size
      redis.call('HSET', push, 'n', 0, 'st', state, 'at', created, 'x', string.sub(whole, start, behind - 1))
      redis.call('HSET', record, 'push', string.sub(whole, behind), 'step', 0, 'cursor', '')
      redis.call('ZADD', prefix .. 'expansions:' .. lane, due == '0' and created or due, id)
      if due ~= '0' then
        note_schedule(push, due, ARGV[at + 7])
      end
    elseif new then
      local state = total == '0' and 'done' or later and 'scheduled' or 'sending'
      redis.call('HSET', push, 'n', total, 'st', state, 'at', created)
      if total == '0' then
        redis.call('PEXPIRE', push, ttl)
      end
    end
    if new and ARGV[at + 10] ~= '0' then
      redis.call('PEXPIRE', push, ARGV[at + 10])
    end
    if new and ARGV[at + 8] ~= '' then
      redis.call('HSET', push, 'tr', ARGV[at + 8])
    end
    if new and later then
      note_schedule(push, due, ARGV[at + 7])
      redis.call('ZADD', prefix .. 'scheduled', due, id)
      if ARGV[at + 12] ~= 'bulk' then -- the lane of the first chunk is that of the push
        redis.call('ZADD', prefix .. ARGV[at + 12], due, id)
      end
      added.scheduled = (added.scheduled or 0) + total
    end
    if new and content ~= '' then
      local parts = cmsgpack.unpack(content)
      redis.call('HSET', prefix .. 'v:' .. id, unpack(parts, 2))
      redis.call('PEXPIRE', prefix .. 'v:' .. id, string.format('%.0f', parts[1]))
    end
    if new then
      listed[#listed + 1], life = ARGV[at + 7], ttl
    end
    at = at + 11
    for _ = 1, chunks do
      local platform, name, count, blob = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
      if new and later then
        redis.call('RPUSH', prefix .. 's:' .. id, platform, name, count, blob)
      elseif new then
        local lane = platform .. ':' .. name
        if count == '1' then
          redis.call('XADD', prefix .. 'q:' .. lane, '*', 'c', blob) -- the most frequent entry, read with fewer strings
        else
          redis.call('XADD', prefix .. 'q:' .. lane, '*', 'c', blob, 'n', count)
        end
        added[lane] = (added[lane] or 0) + count
      end
      at = at + 4
    end
  end
  for field, count in pairs(added) do
    redis.call('HINCRBY', KEYS[1], field, count)
  end
  if life then
    list_pushes(prefix .. 'recent', listed, life)
  end
end
