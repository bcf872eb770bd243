-- Included by others, behind waits.lua: what stands in a retry set.
--
-- A member is `<lane> <number of targets> <encoded chunk>`, and its score the time at which it is due. Where a device may
-- acknowledge its deliveries, `@<due>,<total>,<turn>,<indexes>,<push id>` follows the lane: it is looked at before it is
-- due, so that what was acknowledged leaves the set, and does not go into a lane when it is due.
--
-- The turns of a push name the place of each of its members, `@<channel> <score>`, so that a cancel finds them. The scores
-- of urgent and normal ones are also in `ps:T:<lane>:<channel>`, so that promote.lua finds these among many others. It is
-- only a hint: without one a member is promoted in its turn, and one that leads to none is removed when it is due.

-- The id of the push of a member: its guard has it, or its chunk, which begins with a version and a list that begins with
-- the id (see model/codec.py).
local function push_of(guard, chunk)
  if guard ~= '' then
    return string.match(guard, '^@[^,]+,[^,]+,[^,]+,[^,]*,(.+)$')
  end
  local at = string.byte(chunk, 2) == 0xdc and 5 or 3
  local size = (string.byte(chunk, at) or 0) - 0xa0
  if size == 0xd9 - 0xa0 then
    at, size = at + 1, string.byte(chunk, at + 1) or 0
  end
  return string.sub(chunk, at + 1, at + size)
end

-- Returns lane, guard, count, chunk; nothing where it is no member of a retry set.
local function parts_of(member)
  local lane, guard, count, blank = string.match(member, '^(%a+)(%S*) (%d+)() ')
  if lane then
    return lane, guard, tonumber(count), string.sub(member, blank + 1)
  end
end

-- Returns when what stands behind a guard is due, and how many of its deliveries are open; then its push, and index and
-- record of those, and whether the push is large. Of a push that was cancelled it is due at once: nothing is acknowledged
-- any more, and who takes it ends it. Returns nothing where another version has recorded turns of these.
local function read_guard(prefix, guard)
  local due, total, turn, spans, id = string.match(guard, '^@(%d+),(%d+),(%d+),([%d;-]*),(.+)$')
  local index = {}
  for first, last in string.gmatch(spans, '(%d+)-(%d+)') do
    for i = tonumber(first), tonumber(last) do
      index[#index + 1] = i
    end
  end
  total = tonumber(total)
  local head, open, _, recorded = fence(prefix, id, total, tonumber(turn), index, 0, '')
  if recorded == false then
    return
  end
  due = head and head[1] == 'cancelled' and 0 or due
  if open == true then
    return tonumber(due), #index, id, {}, {}, is_large(total)
  end
  local left, records = {}, {}
  for place = 1, #index do
    if open[place] then
      left[#left + 1], records[#left + 1] = index[place], recorded[place]
    end
  end
  return tonumber(due), #left, id, left, records, is_large(total)
end

-- Deliveries wait in a retry set no more, and those that no device has acknowledged in time go on to a provider, where
-- there is one. Returns how many waited for that.
local function leave(prefix, id, index, records, large, carried_on)
  local turns, acks = {}, 0
  for place = 1, #index do
    local was = records[place]
    local mark = mark_of(was)
    if mark ~= '' and mark ~= 'f' then
      local is = (mark == 'fr' or mark == 'w' and carried_on) and ' f' or ''
      turns[#turns + 1], turns[#turns + 2] = index[place], string.sub(was, 1, -2 - #mark) .. is
      acks = acks + (mark == 'w' and 1 or 0)
    end
  end
  write_turns(prefix .. 't:' .. id, large, {}, turns)
  if acks > 0 then
    redis.call('HINCRBY', prefix .. 'p:' .. id, 'lw', -acks)
    if carried_on then
      redis.call('HINCRBY', prefix .. 'p:' .. id, 'lf', acks)
    end
  end
  return acks
end
