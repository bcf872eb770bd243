-- Replays dead letters: each moves from the dead letters to its lane in one step, or nothing happens.
--
-- Its delivery is open again for a later turn (see fence.lua): it counts as being retried, no longer as failed, and its
-- push as being sent. Its row is gone, so the push keeps when the first of them failed, and when it was replayed last.
-- Dead letters of pushes that were cancelled, whose status or content no longer exists, or whose turns
-- another version has recorded, stay.
-- The step also records the progress of the replay, and takes place only where the cursor is the one that its caller
-- has read: when two workers run the same replay, because one was assumed dead, the later step fails and its worker
-- stops. The same holds for a replay that is stopped during a step.
--
-- KEYS  1 ps:T:pending; 2 ps:T:dead; 3 ps:T:replay:<job>
-- ARGV  1 prefix `ps:T:`; 2 MessagePack of
--         { now ms, cursor read, next cursor, skipped already, groups }
--         group: { push id, channel, lane, total, recorded turn, encoded chunk, indexes, ids of the dead letters, ms for
--                  which the content that the chunk names is needed, or 0 where it names none, when the first of them
--                  failed, ms }
-- Returns { moved, skipped }, or { -1 } where the cursor is another or the replay was stopped, or { -2 } where a dead
-- letter no longer exists: then read again.

-- include: turns
-- include: fence

local prefix = ARGV[1]
local now, seen, cursor, skipped, groups = unpack(cmsgpack.unpack(ARGV[2]))
if (redis.call('HGET', KEYS[3], 'cursor') or '') ~= seen or redis.call('HEXISTS', KEYS[3], 'stop') == 1 then
  return { -1 }
end
for g = 1, #groups do
  for _, entry in ipairs(groups[g][8]) do
    if #redis.call('XRANGE', KEYS[2], entry, entry) == 0 then
      return { -2 }
    end
  end
end

local moved = 0
local pending = {}

local function reopen(group)
  local id, channel, lane, total, turn, chunk, index, entries, needed, failed = unpack(group)
  local push, content = prefix .. 'p:' .. id, prefix .. 'v:' .. id
  local left = needed > 0 and redis.call('PTTL', content)
  local large = is_large(total)
  local head = redis.call('HMGET', push, 'st', 'rt', 'n:failed', 'ff')
  local closed = head[1] and head[1] ~= 'cancelled' and left ~= -2
  for p = 1, #index do
    if closed and large then
      closed = redis.call('GETBIT', prefix .. 'b:' .. id, index[p]) == 1
    elseif closed then
      closed = redis.call('HEXISTS', push, index[p]) == 1
    end
  end
  if not closed or not read_turns(prefix .. 't:' .. id, large, index) then
    skipped = skipped + #index
    return
  end
  local turns = {}
  for p = 1, #index do
    turns[#turns + 1], turns[#turns + 2] = index[p], turn
    if large then
      redis.call('SETBIT', prefix .. 'b:' .. id, index[p], 0)
      redis.call('ZREMRANGEBYSCORE', prefix .. 'r:' .. id, index[p], index[p])
    else
      redis.call('HDEL', push, index[p])
    end
    redis.call('XDEL', KEYS[2], entries[p])
  end
  write_turns(prefix .. 't:' .. id, large, {}, turns)
  if left then
    redis.call('HINCRBY', content, '#', -#index)
  end
  if left and left >= 0 and left < needed then
    redis.call('PEXPIRE', content, string.format('%.0f', needed))
  end
  redis.call('HSET', push, 'up', now, 'rt', tonumber(head[2] or 0) + #index,
    'n:failed', tonumber(head[3] or 0) - #index, 'st', head[1] == 'done' and 'sending' or head[1],
    'ff', math.min(failed, tonumber(head[4] or failed)), 'ra', now)
  for _, key in ipairs({ 'p:', 'b:', 'r:' }) do
    redis.call('PERSIST', prefix .. key .. id) -- it is open again
  end
  redis.call('XADD', prefix .. 'q:' .. channel .. ':' .. lane, '*', 'c', chunk, 'n', #index)
  local at = channel .. ':' .. lane
  pending[at] = (pending[at] or 0) + #index
  moved = moved + #index
end

for g = 1, #groups do
  reopen(groups[g])
end
for field, change in pairs(pending) do
  redis.call('HINCRBY', KEYS[1], field, change)
end
redis.call('HINCRBY', KEYS[3], 'moved', moved)
redis.call('HINCRBY', KEYS[3], 'skipped', skipped)
redis.call('HSET', KEYS[3], 'cursor', cursor, 'up', now)
return { moved, skipped }
