-- Settles deliveries: THE atomic step. Ends, retries, dead letters, receipts, counters, state and acknowledgement.
--
-- Only deliveries that are open for their turn (see fence.lua) take effect, so that the step may run twice and may
-- be told things by processes that were thought dead. The targets of one retry travel together in one encoded chunk
-- that Lua cannot take apart, and so do rows: where only some of them are open, the group is left untouched and its
-- closed targets are returned; the caller settles again without them, and until then nothing is acknowledged.
-- The end of a push's only delivery, the most frequent case, has a way of its own that makes no tables: it takes the
-- server a fifth of the time. Keys other than KEYS[1] are built from the prefix and share its hash tag.
-- What the provider said of tokens is counted a platform and slot of time, not a delivery: `sent` and `invalid` (its
-- token is dead) are ends, and who leaves a receipt beyond the dead was suspect.
--
-- KEYS  1 ps:T:pending
-- ARGV  1 prefix `ps:T:`; 2 MessagePack of
--         { now ms, status TTL ms, dead-letter TTL ms, groups, singles, finished, slot, answers' TTL ms, most dead
--           letters to keep, about }
--         group:    { push id, platform, lane, total, turn, indexes, first, mask, ends, retries, head, dead, receipts,
--                     asked, counted }
--           indexes  of all its deliveries, each once, those that end first, in the order of `ends` and `retries`
--           first, mask  '' or, of a large push, the bits of all of them from this byte of the bitmap on, see fence.lua
--           ends     { end, count, rows, together, flew }   of a small push a row for each: an encoded DeliveryRow;
--                    of a large one { index, member, index, member, .. }, none for those that need no row; `together`
--                    is 1 where a member has the rows of several, `flew` 1 where they were submitted, of a `counted`
--           retries  { due ms, count, chunk, flew }   the chunk is encoded, with its next turn in it
--           head     the encoded chunk without targets, for dead letters; else an empty string
--           dead, receipts   { place in indexes, blob }
--           asked    1 where the provider was asked; 0 for a dry run that it has no word for
--           counted  1 of a cancelled push whose deliveries in flight this dispatcher has counted, see heard.lua
--         singles:  { platform, lane, end, turn, { push id, row, push id, row, .. } }, of pushes with a total of 1 and
--                   index 0
--         finished: { platform, lane, entry ids }
--         slot:     the answers' instant in tens of seconds since the epoch
-- Returns the number of settlements that took effect and of dead letters that had to make room, the oldest, then for
-- each closed target of a retry: push id, index.

-- include: fence
-- include: retire

local ENDS = { sent = 3, failed = 4, invalid = 5, expired = 6, suppressed = 7, cancelled = 8 } -- places in head

local prefix = ARGV[1]
local now, ttl, dead_ttl, groups, singles, finished, slot, answers_ttl, dead_most = unpack(cmsgpack.unpack(ARGV[2]))
local pending = {}
local answers = {} -- platform -> kind -> count
local closed = {}
local applied = 0
local buried = false

local function count_answers(platform, kind, count)
  if count > 0 then
    answers[platform] = answers[platform] or {}
    answers[platform][kind] = (answers[platform][kind] or 0) + count
  end
end

-- Whether all of `count` places behind `place` are open or all closed; else says which of them are closed.
local function as_one(id, index, open, place, count)
  local opened = 0
  for p = place + 1, place + count do
    opened = opened + (open[p] and 1 or 0)
  end
  if opened == 0 or opened == count then
    return true
  end
  for p = place + 1, place + count do
    if not open[p] then
      closed[#closed + 1] = id
      closed[#closed + 1] = index[p]
    end
  end
  return false
end

-- Whether what travels together in the group is open or closed as a whole. Asked before anything is written.
local function is_whole(id, index, open, ends, retries)
  local place, whole = 0, true
  for e = 1, #ends do
    local count = ends[e][2]
    whole = (ends[e][4] == 0 or as_one(id, index, open, place, count)) and whole
    place = place + count
  end
  for r = 1, #retries do
    local count = retries[r][2]
    whole = as_one(id, index, open, place, count) and whole
    place = place + count
  end
  return whole
end

local function settle(group)
  local id, platform, lane, total, turn, index, first, mask, ends, retries, letter, dead, receipts, asked, counted =
    unpack(group)
  local head, open, bytes = fence(prefix, id, total, turn, index, first, mask)
  local large = is_large(total)
  local all = open == true
  if not all and not is_whole(id, index, open, ends, retries) then
    return
  end

  local push = prefix .. 'p:' .. id
  local ttl = ttl
  local fields = { 'HSET', push, 'up', now }
  local bits, rows, turns = {}, {}, {}
  local ended, retried = 0, 0
  local sent, invalid, landed = 0, 0, 0
  local place = 0
  for e = 1, #ends do
    local name, count, kept = unpack(ends[e])
    local hits = 0
    if all and bytes then
      hits = count -- of a first turn, since nothing of the push is being retried
    else
      for p = place + 1, place + count do
        if all or open[p] then
          local i = index[p]
          hits = hits + 1
          if large then
            local at = #bits
            bits[at + 1], bits[at + 2], bits[at + 3], bits[at + 4] = 'SET', 'u1', i, 1
          else
            local at = #fields
            fields[at + 1], fields[at + 2] = i, kept[p - place]
          end
          if turn > 1 then
            turns[#turns + 1] = i
          end
        end
      end
    end
    if large and hits > 0 then
      for k = 1, #kept, 2 do
        if hits == count or open[place + (k + 1) / 2] then
          local at = #rows
          rows[at + 1], rows[at + 2] = kept[k], kept[k + 1]
        end
      end
    end
    place = place + count
    if name == 'sent' then
      sent = hits
    elseif name == 'invalid' then
      invalid = hits
    end
    if hits > 0 then
      ended = ended + hits
      landed = landed + hits * ends[e][5]
      if head then
        local tally = tonumber(head[ENDS[name]] or 0) + hits
        head[ENDS[name]] = tally
        local at = #fields
        fields[at + 1], fields[at + 2] = 'n:' .. name, tally
      end
    end
  end

  if head and tonumber(head[ENDS.failed] or 0) > 0 then
    ttl = math.max(ttl, dead_ttl) -- a replay opens the delivery again, and needs to know what has ended
  end

  local next_turns = {}
  for r = 1, #retries do
    local due, count, chunk = unpack(retries[r])
    if all or open[place + 1] then
      landed = landed + count * retries[r][4]
      redis.call('ZADD', prefix .. 'retry:' .. platform, due, lane .. ' ' .. string.format('%d ', count) .. chunk)
      retried = retried + count
      for p = place + 1, place + count do
        local at = #next_turns
        next_turns[at + 1], next_turns[at + 2] = index[p], turn + 1
      end
    end
    place = place + count
  end
  if ended + retried == 0 then
    return
  end
  applied = applied + ended + retried

  if head then
    -- A recorded turn means: this delivery is being retried. It goes when the delivery ends.
    local retrying = tonumber(head[2] or 0)
    if turn == 1 then
      retrying = retrying + retried
    else
      retrying = retrying - ended
    end
    if turn > 1 or retried > 0 then
      local at = #fields
      fields[at + 1], fields[at + 2] = 'rt', retrying
    end
    if #turns > 0 then
      redis.call('HDEL', prefix .. 't:' .. id, unpack(turns))
    end
    if retried > 0 then
      redis.call('HSET', prefix .. 't:' .. id, unpack(next_turns))
    end
    if large then
      if bytes then
        redis.call('SETRANGE', prefix .. 'b:' .. id, first, bytes)
      elseif #bits > 0 then
        redis.call('BITFIELD', prefix .. 'b:' .. id, unpack(bits))
      end
      if #rows > 0 then
        redis.call('ZADD', prefix .. 'r:' .. id, unpack(rows))
      end
    end
    local over = 0
    for at = 3, 8 do
      over = over + tonumber(head[at] or 0)
    end
    local whole = total
    if total == 0 then
      -- While an audience is being expanded there is no total to be reached.
      whole = head[1] ~= 'expanding' and tonumber(redis.call('HGET', push, 'n'))
    end
    if over == whole then
      if head[1] == 'cancelled' then
        redis.call('ZREM', prefix .. 'cancelled', id)
      else
        local at = #fields
        fields[at + 1], fields[at + 2] = 'st', 'done'
      end
    end
    redis.call(unpack(fields))
    if counted == 1 and head[1] == 'cancelled' and landed > 0 then
      redis.call('HINCRBY', push, 'fi', -landed)
    end
    if over == whole then
      retire(prefix, id, large, ttl)
    end
  end

  local at = platform .. ':' .. lane
  pending[at] = (pending[at] or 0) - ended
  at = platform .. ':retry'
  pending[at] = (pending[at] or 0) + retried

  for d = 1, #dead do
    if all or open[dead[d][1]] then
      if letter then
        redis.call('HSETNX', prefix .. 'm:' .. id, platform, letter)
        redis.call('PEXPIRE', prefix .. 'm:' .. id, dead_ttl)
        letter = nil
      end
      redis.call('XADD', prefix .. 'dead', 'MINID', '~', string.format('%d', now - dead_ttl), '*', 'd', dead[d][2])
      buried = true
    end
  end
  local told = 0
  for r = 1, #receipts do
    if all or open[receipts[r][1]] then
      told = told + 1
      redis.call('XADD', prefix .. 'receipts', '*', 'r', receipts[r][2])
    end
  end
  if asked == 1 then
    count_answers(platform, 'sent', sent)
    count_answers(platform, 'dead', invalid)
    count_answers(platform, 'suspect', told - invalid)
  end
end

-- The same as `settle` for the only delivery of each of these pushes; returns how many took effect.
local function settle_singles(name, turn, list)
  local ended = 0
  local first, tally = prefix .. 'p:', 'n:' .. name
  for at = 1, #list, 2 do
    local id = list[at]
    local push = first .. id
    local head = redis.call('HMGET', push, 'st', 'rt', '0')
    local state, retrying = head[1], head[2]
    local open = not state
    if state and not head[3] then
      if not retrying or retrying == '0' then
        open = turn == 1
      else
        open = tonumber(redis.call('HGET', prefix .. 't:' .. id, '0') or 1) == turn
      end
    end
    if open then
      ended = ended + 1
      if state == 'cancelled' then
        redis.call('HSET', push, 'up', now, tally, 1, '0', list[at + 1])
        redis.call('ZREM', prefix .. 'cancelled', id)
      elseif state then
        redis.call('HSET', push, 'up', now, tally, 1, '0', list[at + 1], 'st', 'done')
      end
      if state then
        redis.call('PEXPIRE', push, ttl)
        if turn > 1 then
          redis.call('HSET', push, 'rt', 0)
          redis.call('DEL', prefix .. 't:' .. id)
        end
      end
    end
  end
  return ended
end

for g = 1, #groups do
  settle(groups[g])
end
for s = 1, #singles do
  local platform, lane, name, turn, list = unpack(singles[s])
  local ended = settle_singles(name, turn, list)
  applied = applied + ended
  local at = platform .. ':' .. lane
  pending[at] = (pending[at] or 0) - ended
  if name == 'sent' then
    count_answers(platform, 'sent', ended)
  end
end
for field, change in pairs(pending) do
  if change ~= 0 and redis.call('HINCRBY', KEYS[1], field, change) < 0 then
    redis.call('HSET', KEYS[1], field, 0) -- what ended was never counted here: this server was behind, or empty
  end
end
for platform, kinds in pairs(answers) do
  local key = prefix .. string.format('answers:%s:%d', platform, math.floor(slot / 6))
  for kind, count in pairs(kinds) do
    local field = string.format('%s:%d', kind, slot % 6 * 10)
    if redis.call('HINCRBY', key, field, count) == count then
      redis.call('PEXPIRE', key, answers_ttl)
    end
  end
end
if #closed == 0 then
  for f = 1, #finished do
    local platform, lane, ids = unpack(finished[f])
    local stream = prefix .. 'q:' .. platform .. ':' .. lane
    redis.call('XACK', stream, 'dispatch', unpack(ids))
    redis.call('XDEL', stream, unpack(ids))
  end
end
local dropped = 0
if buried and redis.call('XLEN', prefix .. 'dead') > dead_most then
  dropped = redis.call('XTRIM', prefix .. 'dead', 'MAXLEN', '~', dead_most)
end
return { applied, dropped, unpack(closed) }
