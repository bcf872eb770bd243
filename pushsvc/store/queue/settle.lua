-- Settles deliveries: THE atomic step. Ends, retries, dead letters, receipts, counters, state and acknowledgement.
--
-- Only deliveries that are open for their turn (see fence.lua) take effect, so that the step may run twice and may
-- be called by processes that were taken for dead. The targets of one retry travel together in one encoded chunk
-- that Lua cannot take apart, and so do rows: where only some of them are open, the group is left untouched and its
-- closed targets are returned; the caller settles again without them, and until then nothing is acknowledged. A retry
-- that a device may acknowledge travels with those of its targets that have ended: its reader asks the fence.
-- A retry takes effect only while its entry is still pending for its consumer. A consumer that was taken for dead answers
-- late: its entry belongs to another one, or was put into the lane again, and is sent from there; a retry beside that
-- would send the same delivery twice at a time. Such an entry is not acknowledged either, and neither is one of a push
-- whose turns another version has recorded: its next reader sets it aside.
-- A push's only delivery that ends in its first turn, that waits for its device then, or whose device has acknowledged it
-- has a way of its own: these, the most frequent cases, need none of the functions of the others, which take the server
-- longer to make than a step for one push: they are made where they are called for. Keys other than KEYS[1] are built from
-- the prefix and share its hash tag.
-- The provider's answers about tokens are counted a channel and slot of time, not a delivery.
--
-- KEYS  1 ps:T:pending
-- ARGV  1 prefix `ps:T:`; 2 MessagePack of a Record, which record.py types. All times are ms.
--   Record    { now, ttl, dead_ttl, groups, singles, finished, slot, answers_ttl, dead_most, consumer }
--   Group     { push_id, channel, lane, total, turn, indexes, first, mask, ends, retries, dead, receipts, asked, counted,
--               entry }
--   EndOf     { name, count, rows, together, flew }
--   RetryOf   { due, count, chunk, flew, channel, guard, mark }
--   Note      { place, blob }
--   ReceiptOf { place, blob, dead }
--   Single    { channel, lane, name, turn, kept, list }
--   Finished  { platform, lane, entry_ids }
-- Returns the number of settlements that took effect and of dead letters that had to make room, the oldest; the entries
-- that are not the consumer's any more, as stream, id, ..; what of a known turn took no effect, as push id, index, ..;
-- then for each closed target of what was left untouched: push id, index.

local WORDS = 1000 -- of a command, at most

local prefix = ARGV[1]
local now, ttl, dead_ttl, groups, singles, finished, slot, answers_ttl, dead_most, consumer =
  unpack(cmsgpack.unpack(ARGV[2]))
local pending = {}
local answers = {} -- channel -> kind -> count
local closed = {}
local lost = {} -- entries of others
local void = {} -- what took no effect
local applied = 0
local buried = false
local waiting = {} -- key of a sorted set -> score, member, ..
local asked_of = {} -- entry -> whether it is ours

-- include: waits

local function count_pending(field, change)
  pending[field] = (pending[field] or 0) + change
end

local function count_answers(channel, kind, count)
  if count > 0 then
    answers[channel] = answers[channel] or {}
    answers[channel][kind] = (answers[channel][kind] or 0) + count
  end
end

local function add_to(key, score, member)
  local list = waiting[key]
  if not list then
    list = {}
    waiting[key] = list
  end
  local at = #list
  list[at + 1], list[at + 2] = score, member
end

-- Puts a member into the retry set of a channel when the step ends, to be looked at then.
local function add_waiting(channel, lane, look, member)
  add_to(prefix .. 'retry:' .. channel, look, member)
  if lane ~= 'bulk' then
    add_to(prefix .. lane .. ':' .. channel, look, look)
  end
end

-- Whether an entry is still pending for this consumer. Where the server knows no group it has lost everything.
local function is_ours(stream, entry)
  local key = stream .. entry
  if asked_of[key] == nil then
    local found = redis.pcall('XPENDING', stream, 'dispatch', entry, entry, 1, consumer)
    asked_of[key] = found.err ~= nil or #found > 0
  end
  return asked_of[key]
end

-- Settles groups, and singles of which more must be known.
local function settle_others(groups, singles)
-- include: turns
-- include: fence
-- include: retire
-- include: waiting
-- include: groups
end

-- Ends the only deliveries of pushes, for good, in their first turn or in whichever is recorded. Returns what must be looked
-- at more closely.
local function end_singles(channel, lane, name, turn, kept, list)
  local first, counted_as, left = prefix .. 'p:', channel .. ':' .. lane, {}
  local at, lifetime = string.format('%.0f', now), string.format('%.0f', ttl) -- the server formats a number more slowly
  local fields = { 'HSET', '', '0', '', 'up', at, 'n:' .. name, '1', 'st', 'done' }
  local acked = turn == 0 and name == 'sent'
  local waited -- the same of what has waited for its device
  if acked then
    fields[11], fields[12] = 'la', '1'
    waited = { unpack(fields) }
    waited[13], waited[14], waited[15], waited[16] = 'rt', '0', 'lw', '0'
  end
  for p = 1, #list, 2 do
    local push = first .. list[p]
    local head = acked and redis.call('HMGET', push, 'st', 'rt', '0', 'la') or redis.call('HMGET', push, 'st', 'rt', '0')
    local open = head[1] == 'sending' and not head[3]
    local own
    if open and (not head[2] or head[2] == '0') then
      own = fields
    elseif open and acked and not head[4] and head[2] == '1' then
      local turns = prefix .. 't:' .. list[p]
      local place, place_channel = string.match(redis.call('HGET', turns, '0') or '', '^%d+ (([^ :]+):%a+) w$')
      if place then
        own = waited
        count_pending(counted_as, 1)
        count_pending(place, -1)
        count_pending(place_channel .. ':ack', -1)
        redis.call('DEL', turns)
      end
    end
    if own then
      own[2], own[4] = push, list[p + 1]
      redis.call(unpack(own))
      if kept == 0 then
        redis.call('PEXPIRE', push, lifetime)
      end
    else
      left[#left + 1], left[#left + 2] = list[p], list[p + 1]
    end
  end
  local ended = (#list - #left) / 2
  applied = applied + ended
  count_pending(counted_as, -ended)
  if name == 'sent' and turn > 0 then
    count_answers(channel, 'sent', ended)
  end
  return left
end

-- Lets the only deliveries of pushes wait for their devices, each after its first turn. Returns the groups that must be looked
-- at more closely: also those behind one of these that are of the same push, since the first outcome counts.
local function hold_singles(groups)
  local at, left, behind = string.format('%.0f', now), {}, {}
  for g = 1, #groups do
    local id, channel, lane, total, turn, _, _, _, ends, retries, dead, receipts, _, counted, entry = unpack(groups[g])
    local again, head = retries[1], nil
    if total == 1 and turn == 1 and again and again[7] == 'w' and #ends + #dead + #receipts + counted == 0
      and not behind[id] then
      head = redis.call('HMGET', prefix .. 'p:' .. id, 'st', 'rt')
    end
    if head and head[1] == 'done' then
      void[#void + 1], void[#void + 2] = id, 0
    elseif not head or head[1] ~= 'sending' or head[2] and head[2] ~= '0' then
      left[#left + 1], behind[id] = groups[g], true
    elseif entry ~= '' and not is_ours(prefix .. 'q:' .. channel .. ':' .. lane, entry) then
      void[#void + 1], void[#void + 2] = id, 0
      lost[#lost + 1], lost[#lost + 2] = prefix .. 'q:' .. channel .. ':' .. lane, entry
    else
      local due, count, chunk, _, next_channel, guard = unpack(again)
      local counted_as, look = next_channel .. ':' .. lane, look_at(due, guard, now + FIRST_LOOK)
      redis.call('HSET', prefix .. 't:' .. id, '0', '2 ' .. counted_as .. ' w', place_field(next_channel, look), '1')
      redis.call('HSET', prefix .. 'p:' .. id, 'up', at, 'rt', '1', 'lw', '1')
      add_waiting(next_channel, lane, look, lane .. guard .. ' ' .. string.format('%d ', count) .. chunk)
      applied = applied + 1
      count_pending(channel .. ':' .. lane, -1)
      count_pending(counted_as, 1)
      count_pending(next_channel .. ':ack', 1)
    end
  end
  return left
end

-- The entries of a stream without those that were lost.
local function still_ours(stream, entry_ids)
  local ours, others = {}, {}
  for at = 1, #lost, 2 do
    if lost[at] == stream then
      others[lost[at + 1]] = true
    end
  end
  for at = 1, #entry_ids do
    if not others[entry_ids[at]] then
      ours[#ours + 1] = entry_ids[at]
    end
  end
  return ours
end

local more = hold_singles(groups)
if #more > 0 then
  settle_others(more, {})
end
local others = {}
for s = 1, #singles do
  local channel, lane, name, turn, kept, list = unpack(singles[s])
  local left = turn <= 1 and end_singles(channel, lane, name, turn, kept, list) or list
  if #left > 0 then
    others[#others + 1] = { channel, lane, name, turn, kept, left }
  end
end
if #others > 0 then
  settle_others({}, others)
end
for key, list in pairs(waiting) do
  for first = 1, #list, WORDS do
    redis.call('ZADD', key, unpack(list, first, math.min(first + WORDS - 1, #list)))
  end
end
for field, change in pairs(pending) do
  if change ~= 0 and redis.call('HINCRBY', KEYS[1], field, change) < 0 then
    redis.call('HSET', KEYS[1], field, 0) -- what ended was never counted here: this server was behind, or empty
  end
end
for channel, kinds in pairs(answers) do
  local key = prefix .. string.format('answers:%s:%d', channel, math.floor(slot / 6))
  for kind, count in pairs(kinds) do
    local field = string.format('%s:%d', kind, slot % 6 * 10)
    if redis.call('HINCRBY', key, field, count) == count then
      redis.call('PEXPIRE', key, answers_ttl)
    end
  end
end
if #closed == 0 then
  for f = 1, #finished do
    local platform, lane, entry_ids = unpack(finished[f])
    local stream = prefix .. 'q:' .. platform .. ':' .. lane
    local ours = #lost == 0 and entry_ids or still_ours(stream, entry_ids)
    if #ours > 0 then
      redis.call('XACK', stream, 'dispatch', unpack(ours))
      redis.call('XDEL', stream, unpack(ours))
    end
  end
end
local dropped = 0
if buried and redis.call('XLEN', prefix .. 'dead') > dead_most then
  dropped = redis.call('XTRIM', prefix .. 'dead', 'MAXLEN', '~', dead_most)
end
return { applied, dropped, lost, void, unpack(closed) }
