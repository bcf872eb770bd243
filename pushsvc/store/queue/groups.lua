-- Included by settle.lua, which has the arguments and what is counted: settles all that is no push's only delivery in its
-- first turn.
--
-- Each group goes through the same steps: fence, end, retry, letters, account.

local ENDS = { sent = 3, failed = 4, invalid = 5, expired = 6, suppressed = 7, cancelled = 8 } -- places in the status
local F = string.byte('f')

-- Moves the pending count of `count` deliveries from where their recorded turn counts them to `counted_as`, and takes them out
-- of the count of those that wait.
local function count_elsewhere(recorded, counted_as, count)
  local place, waits = parsed_record(recorded).place, waiting_field(recorded)
  if place and place ~= counted_as then
    count_pending(place, -count)
    count_pending(counted_as, count)
  end
  if waits then
    count_pending(waits, -count)
  end
end

-- Notes one more delivery with this record, if there is one: what follows from a record is counted once for all that have it.
local function tally(counts, recorded)
  counts[recorded or ''] = (counts[recorded or ''] or 0) + 1
end

-- Whether all of `count` places behind `place` are open or all closed; else says which of them are closed. With
-- `guarded`, those that have ended may be among the open ones.
local function as_one(id, index, open, place, count, guarded)
  local opened, over = 0, 0
  for p = place + 1, place + count do
    opened = opened + (open[p] and 1 or 0)
    over = over + (guarded and open[p] == false and 1 or 0)
  end
  if opened == 0 or opened + over == count then
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
    whole = as_one(id, index, open, place, count, retries[r][6] ~= '') and whole
    place = place + count
  end
  return whole
end

-- Counts that the mark of `count` deliveries changes from `was` to `is`, which is empty where the mark goes. A delivery that a
-- provider has carried on stays counted as such, unless its device ends it.
local function count_mark(marks, was, is, turn, count)
  local carried, carries = string.byte(was) == F, string.byte(is) == F
  marks.w = marks.w - (was == 'w' and count or 0) + (is == 'w' and count or 0)
  if carries and not carried then
    marks.f = marks.f + count
  elseif carried and not carries and turn == 0 then
    marks.f = marks.f - count
  end
end

-- What the live channel has carried, in the status: acknowledged, waiting for that, carried on by a provider.
local function account_live(push, acked, marks)
  for field, change in pairs({ la = acked, lw = marks.w, lf = marks.f }) do
    if change ~= 0 then
      redis.call('HINCRBY', push, field, change)
    end
  end
end

-- The turn that is recorded for the delivery goes when it ends.
local function forget_turn(work, p)
  local was = work.recorded and work.recorded[p]
  if work.turn > 1 or was then
    work.turns[#work.turns + 1] = work.index[p]
    tally(work.forgotten, was)
  end
end

-- One end of a small push: a row under each index.
local function end_small(work, place, count, rows)
  local fields, hits = work.fields, 0
  for p = place + 1, place + count do
    if work.all or work.open[p] then
      local at, i = #fields, work.index[p]
      hits = hits + 1
      fields[at + 1], fields[at + 2] = i, rows[p - place]
      if work.turn ~= 1 then
        forget_turn(work, p)
      end
    end
  end
  return hits
end

-- One end of a large push: a bit for each index, and the rows that it needs.
local function end_large(work, place, count, rows)
  local bits, kept, hits = work.bits, work.rows, 0
  if work.bytes then
    hits = count -- of a first turn, since nothing of the push is being retried
  else
    for p = place + 1, place + count do
      if work.all or work.open[p] then
        hits = hits + 1
        bits[#bits + 1] = work.index[p]
        if work.turn ~= 1 then
          forget_turn(work, p)
        end
      end
    end
  end
  if hits > 0 then
    for k = 1, #rows, 2 do
      if hits == count or work.open[place + (k + 1) / 2] then
        local at = #kept
        kept[at + 1], kept[at + 2] = rows[k], rows[k + 1]
      end
    end
  end
  return hits
end

-- Step `end`: what has ended, with its rows and counts. Returns the place of the last.
local function finish(work, ends)
  local head, fields, place = work.head, work.fields, 0
  local end_one = work.large and end_large or end_small
  for e = 1, #ends do
    local name, count, rows, _, flew = unpack(ends[e])
    local hits = end_one(work, place, count, rows)
    place = place + count
    work.hits[name] = (work.hits[name] or 0) + hits
    if hits > 0 then
      work.ended = work.ended + hits
      work.landed = work.landed + hits * flew
      if head then
        local tally = tonumber(head[ENDS[name]] or 0) + hits
        local at = #fields
        head[ENDS[name]] = tally
        fields[at + 1], fields[at + 2] = 'n:' .. name, tally
      end
    end
  end
  -- Of what ends in any turn the record says where it is counted.
  for was, count in pairs(work.forgotten) do
    count_elsewhere(was, work.counted_as, count)
    count_mark(work.marks, mark_of(was), '', work.turn, count)
  end
  return place
end

-- Step `retry`: what goes again waits for its time, or goes to the next channel at once, and its turn is recorded.
local function retry(work, retries, place, lane)
  local turns = work.next_turns
  for r = 1, #retries do
    local due, count, chunk, flew, channel, guard, mark = unpack(retries[r])
    local counted_as, before, replaced = channel .. ':' .. lane, work.retried, {}
    local turn = string.format(guard == '' and '%d' or '%d %s', work.turn + 1, counted_as)
    if mark ~= '' then
      turn = turn .. ' ' .. mark
    end
    for p = place + 1, place + count do
      if work.all or work.open[p] then
        local at = #turns
        turns[at + 1], turns[at + 2] = work.index[p], turn
        work.retried = work.retried + 1
        if guard ~= '' then
          tally(replaced, work.recorded and work.recorded[p])
        end
      end
    end
    for was, number in pairs(replaced) do
      local waits = waiting_field(was)
      count_mark(work.marks, mark_of(was), mark, work.turn, number)
      if waits then
        count_pending(waits, -number) -- they go on before their time, see awaiting.lua
      end
    end
    local moved = work.retried - before
    work.landed = work.landed + moved * flew
    if moved > 0 and due == 0 then
      redis.call('XADD', prefix .. 'q:' .. counted_as, '*', 'c', chunk, 'n', count)
    elseif moved > 0 then
      local member, look = lane .. guard .. ' ' .. string.format('%d ', count) .. chunk, '0'
      if not work.head or work.head[1] ~= 'cancelled' then -- else the consumer that takes it ends it
        look = look_at(due, guard, now + FIRST_LOOK)
      end
      add_waiting(channel, lane, look, member)
      turns[#turns + 1], turns[#turns + 2] = place_field(channel, look), 1
      count_pending(channel .. ':' .. wait_of(mark), moved)
    end
    if counted_as ~= work.counted_as then
      count_pending(work.counted_as, -moved)
      count_pending(counted_as, moved)
    end
    place = place + count
  end
end

-- A recorded turn means: this delivery is being retried. It goes when the delivery ends.
local function account_turns(work)
  local fields = work.fields
  local change = (work.turn == 1 and work.retried or 0) - #work.turns
  if change ~= 0 then
    local at = #fields
    fields[at + 1], fields[at + 2] = 'rt', tonumber(work.head[2] or 0) + change
  end
  if #work.turns > 0 or work.retried > 0 then
    write_turns(prefix .. 't:' .. work.id, work.large, work.turns, work.next_turns, work.blobs)
  end
end

-- Sets the bits of these places. `bytes` is nil or has all of them, and is what the bitmap has there so far.
local function set_bits(key, index, bytes, from)
  local ask = { key }
  if not bytes then
    for p = 1, #index do
      local at = #ask
      ask[at + 1], ask[at + 2], ask[at + 3], ask[at + 4] = 'SET', 'u1', index[p], 1
    end
    redis.call('BITFIELD', unpack(ask))
    return
  end
  local all = { string.byte(bytes, 1, -1) }
  for p = 1, #index do
    local at = math.floor(index[p] / 8) - from + 1
    all[at] = bit.bor(all[at], BITS[index[p] % 8])
  end
  redis.call('SETRANGE', key, from, string.char(unpack(all)))
end

local function account_marks(work, first)
  local bitmap = prefix .. 'b:' .. work.id
  if work.bytes then
    redis.call('SETRANGE', bitmap, first, work.bytes)
  elseif #work.bits > 0 then
    set_bits(bitmap, work.bits, work.before, work.from)
  end
  if #work.rows > 0 then
    redis.call('ZADD', prefix .. 'r:' .. work.id, unpack(work.rows))
  end
end

-- Step `account`: the push's status, turns, bits and rows. With its last delivery it is done, and has a lifetime.
local function account(work, total, first, counted)
  local id, head, fields = work.id, work.head, work.fields
  local push = prefix .. 'p:' .. id
  account_turns(work)
  account_live(push, work.turn == 0 and work.hits.sent or 0, work.marks)
  if work.large then
    account_marks(work, first)
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
  if counted == 1 and head[1] == 'cancelled' and work.landed > 0 then
    redis.call('HINCRBY', push, 'fi', -work.landed)
  end
  if over == whole then
    if head[2] then
      redis.call('DEL', prefix .. 't:' .. id)
    end
    retire(prefix, id, work.large, ttl, dead_ttl, head[ENDS.failed] or 0)
  end
end

-- Step `letters`: what failed for good is kept for a replay, and with it the content that it names.
local function add_dead_letters(work, dead)
  local count = 0
  for d = 1, #dead do
    local place, blob = unpack(dead[d])
    if work.all or work.open[place] then
      redis.call('XADD', prefix .. 'dead', 'MINID', '~', string.format('%d', now - dead_ttl), '*', 'd', blob)
      count = count + 1
    end
  end
  buried = buried or count > 0
  if count > 0 and work.large then
    local content = prefix .. 'v:' .. work.id
    local left = redis.call('PTTL', content)
    if left ~= -2 then
      redis.call('HINCRBY', content, '#', count)
    end
    if left >= 0 and left < dead_ttl then
      redis.call('PEXPIRE', content, dead_ttl)
    end
  end
end

-- Reports tokens that are dead or suspect to feedback. Returns how many of each.
local function report(work, receipts)
  local reported, died = 0, 0
  for r = 1, #receipts do
    local place, blob, dead = unpack(receipts[r])
    if work.all or work.open[place] then
      reported, died = reported + 1, died + dead
      redis.call('XADD', prefix .. 'receipts', '*', 'r', blob)
    end
  end
  return died, reported - died
end

-- Whether any of `count` places is open: a device may have acknowledged all that a retry is for.
local function any_open(open, count)
  if open == true then
    return true
  end
  for p = 1, count do
    if open[p] then
      return true
    end
  end
  return false
end

-- What is open of a group whose entry is not ours any more: of its retries nothing is.
local function open_ends(open, ends)
  local place, left = 0, {}
  for e = 1, #ends do
    for p = place + 1, place + ends[e][2] do
      left[p] = open[p]
    end
    place = place + ends[e][2]
  end
  return left
end

local function settle(group)
  local push_id, channel, lane, total, turn, indexes, first, mask, ends, retries, dead, receipts, asked, counted, entry =
    unpack(group)
  local status, open, bytes, recorded, blobs, before, from = fence(prefix, push_id, total, turn, indexes, first, mask)
  local stream = prefix .. 'q:' .. channel .. ':' .. lane
  if turn == 0 and recorded and ends[1][1] ~= 'sent' then
    -- No acknowledgement will come; where a provider carries it on, its answer is the end.
    for p = 1, #indexes do
      open[p] = open[p] and (not recorded[p] or mark_of(recorded[p]) == 'w')
    end
  end
  if status and entry ~= ''
    and (recorded == false or #retries > 0 and any_open(open, #indexes) and not is_ours(stream, entry)) then
    open = open_ends(open, ends)
    lost[#lost + 1], lost[#lost + 2] = stream, entry
  end
  if open ~= true and not is_whole(push_id, indexes, open, ends, retries) then
    return
  end
  local work = {
    id = push_id, turn = turn, index = indexes, large = is_large(total), head = status,
    open = open, all = open == true, bytes = bytes, before = before, from = from, recorded = recorded, blobs = blobs,
    counted_as = channel .. ':' .. lane,
    fields = { 'HSET', prefix .. 'p:' .. push_id, 'up', now }, bits = {}, rows = {}, turns = {}, next_turns = {},
    forgotten = {}, hits = {}, marks = { w = 0, f = 0 }, ended = 0, retried = 0, landed = 0,
  }
  local place = finish(work, ends)
  retry(work, retries, place, lane)
  local took = work.ended + work.retried
  if took < #indexes and turn > 0 then
    for p = 1, #indexes do
      if not open[p] then
        void[#void + 1], void[#void + 2] = push_id, indexes[p]
      end
    end
  end
  if took == 0 then
    return
  end
  applied = applied + took
  add_dead_letters(work, dead)
  if status then
    account(work, total, first, counted)
  end
  count_pending(work.counted_as, -work.ended)
  local died, suspected = report(work, receipts)
  if asked == 1 then
    count_answers(channel, 'sent', work.hits.sent or 0)
    count_answers(channel, 'dead', died)
    count_answers(channel, 'suspect', suspected)
  end
end

local LIVE = { 'la', 'lw', 'lf' } -- the fields of `account_live`

-- The same as `settle` for the only delivery of each of these pushes; returns how many took effect.
local function settle_singles(name, turn, list, counted_as)
  local ended = 0
  local first, tally = prefix .. 'p:', 'n:' .. name
  local at, lifetime = string.format('%.0f', now), string.format('%.0f', ttl) -- the server formats a number more slowly
  for p = 1, #list, 2 do
    local id = list[p]
    local push = first .. id
    local head = redis.call('HMGET', push, 'st', 'rt', '0', 'la', 'lw', 'lf')
    local state, retrying = head[1], head[2]
    local open, recorded = not state and turn > 0, nil
    if state and not head[3] then
      if not retrying or retrying == '0' then
        open = turn <= 1
      else
        recorded = redis.call('HGET', prefix .. 't:' .. id, '0')
        open = turn == 0 or turn_of(recorded) == turn
      end
      open = open and (turn > 0 or state ~= 'cancelled')
        and (turn > 0 or name == 'sent' or not recorded or mark_of(recorded) == 'w')
    end
    if open then
      ended = ended + 1
      if recorded then
        count_elsewhere(recorded, counted_as, 1)
      end
      if state then
        local fields = { 'HSET', push, 'up', at, tally, '1', '0', list[p + 1] }
        local function write(field, value)
          fields[#fields + 1], fields[#fields + 2] = field, value
        end
        if state == 'cancelled' then
          redis.call('ZREM', prefix .. 'cancelled', id)
        else
          write('st', 'done')
        end
        if recorded then
          write('rt', '0')
          redis.call('DEL', prefix .. 't:' .. id)
        end
        if turn == 0 or recorded then
          local marks = { w = 0, f = 0 }
          count_mark(marks, mark_of(recorded), '', turn, 1)
          local changes = { turn == 0 and name == 'sent' and 1 or 0, marks.w, marks.f }
          for c, field in ipairs(LIVE) do
            if changes[c] ~= 0 then
              write(field, string.format('%d', tonumber(head[3 + c] or 0) + changes[c]))
            end
          end
        end
        redis.call(unpack(fields))
        redis.call('PEXPIRE', push, lifetime)
      end
    elseif turn > 0 then
      void[#void + 1], void[#void + 2] = id, 0
    end
  end
  return ended
end

for g = 1, #groups do
  settle(groups[g])
end
for s = 1, #singles do
  local channel, lane, name, turn, _, list = unpack(singles[s])
  local counted_as = channel .. ':' .. lane
  local ended = settle_singles(name, turn, list, counted_as)
  applied = applied + ended
  count_pending(counted_as, -ended)
  if name == 'sent' and turn > 0 then
    count_answers(channel, 'sent', ended)
  end
end
