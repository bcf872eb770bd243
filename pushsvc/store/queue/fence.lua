-- Included by others: what is recorded of some deliveries of a push.
--
-- A delivery is open for a turn when it has not ended and this turn is the one that is recorded for it; without a
-- record the turn is 1. This is the fence: an outcome that comes late, from a process that was taken for dead, or
-- twice, finds its delivery closed. A turn of 0 stands for whichever is recorded: a device has acknowledged the delivery,
-- which is proof that it has arrived, whatever became of it meanwhile. It ends what is open, unless its push was cancelled.
--
-- A recorded turn is a number; where a device may acknowledge the delivery, `<turn> <channel>:<lane>`, which says where it
-- is counted as pending. Behind that stands ` w` while it waits in the retry set for that; else ` f` once a provider
-- carries it on, and with it or alone `r` while it waits there for its time. So it is counted in the status, and as
-- waiting. How these records are stored is in turns.lua.
--
-- A push of more than FEW deliveries is large: it has a bit a delivery instead of a row under its index. So is a push
-- with a total of 0: it is made from an audience, page by page, and its total was unknown when the chunk was written.

-- layout: FEW

local function is_large(total)
  return total > FEW or total == 0
end

-- The bytes of a bitmap from `first` on with those of `mask` added, or nil where one of these bits is set already.
local function added(key, first, mask)
  local before = redis.call('GETRANGE', key, first, first + #mask - 1)
  local bytes = {}
  for at = 1, #mask do
    local own, new = string.byte(before, at) or 0, string.byte(mask, at)
    if bit.band(own, new) ~= 0 then
      return nil
    end
    bytes[at] = bit.bor(own, new)
  end
  return string.char(unpack(bytes))
end

local BITS = { [0] = 128, 64, 32, 16, 8, 4, 2, 1 } -- of a byte of a bitmap, as SETBIT counts them
local SPREAD, WIDEST = 8, 1024 -- bytes of a bitmap that are looked at together: for each place, and at most

-- The bytes of a bitmap with the bits of these places, and the number of the first of them. Returns nil where the places
-- are so far apart that a command a bit is cheaper.
local function bytes_of(key, index)
  local first, last = index[1] or 0, index[1] or 0
  for place = 2, #index do
    local i = index[place]
    if i < first then
      first = i
    elseif i > last then
      last = i
    end
  end
  first, last = math.floor(first / 8), math.floor(last / 8)
  local size = last - first + 1
  if size <= SPREAD * #index and size <= WIDEST then
    local bytes = redis.call('GETRANGE', key, first, last)
    return bytes .. string.rep('\0', size - #bytes), first
  end
end

-- Whether the deliveries of a large push are open, for each place in `index`; then as `bytes_of`.
local function open_by_bits(key, index)
  local open, bytes, from = {}, bytes_of(key, index)
  if bytes then
    for place = 1, #index do
      local i = index[place]
      open[place] = math.floor(string.byte(bytes, math.floor(i / 8) - from + 1) / BITS[i % 8]) % 2 == 0
    end
    return open, bytes, from
  end
  for first = 1, #index, SLICE do
    local ask = {}
    for place = first, math.min(first + SLICE - 1, #index) do
      local at = #ask
      ask[at + 1], ask[at + 2], ask[at + 3] = 'GET', 'u1', index[place]
    end
    local ended = redis.call('BITFIELD', key, unpack(ask))
    for place = 1, #ended do
      open[first + place - 1] = ended[place] == 0
    end
  end
  return open
end

local function turn_of(recorded)
  return tonumber(recorded or 1) or tonumber(string.match(recorded, '^%d+'))
end

-- As what the deliveries of a retry with this mark are counted while they wait in a retry set.
local function wait_of(mark)
  return mark == 'w' and 'ack' or 'retry'
end

-- What a record holds besides its turn: the `place` where it is counted as pending, its `mark`, and the field of `pending`
-- in which it `waits`. Most deliveries of a step have the same record.
local parsed = {}
local function parsed_record(recorded)
  local found = parsed[recorded]
  if not found then
    local channel, mark = string.match(recorded, ' ([^ ]+):%a+ (%a+)$')
    found = {
      place = string.match(recorded, ' (%S+)'),
      mark = string.match(recorded, ' (%a+)$') or '',
      waits = channel and mark ~= 'f' and channel .. ':' .. wait_of(mark),
    }
    parsed[recorded] = found
  end
  return found
end

-- `w`, `f`, `fr`, `r` or '': how a delivery with this record is counted.
local function mark_of(recorded)
  return recorded and parsed_record(recorded).mark or ''
end

-- The field of `pending` in which a delivery with this record is counted as waiting, or nil where it does not wait.
local function waiting_field(recorded)
  return recorded and parsed_record(recorded).waits
end

-- Returns head, open, bytes, recorded. `head` is nil when the status of the push has run out: then nothing is known, and
-- everything is open but for turn 0. Else it is st, rt, n:sent, n:failed, n:invalid, n:expired, n:suppressed,
-- n:cancelled. `open` is true when everything is, else it has for each place in `index` true, false where the delivery
-- has ended, or nil where another turn is recorded. `recorded` has what is recorded. No index may come twice. Where
-- another version has recorded turns that this one cannot read nothing is open, and `recorded` is false. The fifth is what
-- `write_turns` takes as `blobs`, and those behind it are what `bytes_of` has returned of a large push.
-- `mask` is '' or, from byte `first` of the bitmap on, the bits of all of `index`: the quick way, and where everything
-- is open by it `bytes` is what the bitmap must have there when all of them have ended.
local function fence(prefix, id, total, turn, index, first, mask)
  local push, bitmap = prefix .. 'p:' .. id, prefix .. 'b:' .. id
  local large = is_large(total)
  local head = redis.call('HMGET', push, 'st', 'rt', 'n:sent', 'n:failed', 'n:invalid', 'n:expired', 'n:suppressed',
    'n:cancelled', unpack(large and {} or index))
  if not head[1] then
    return nil, turn ~= 0 or {}
  end
  local open, recorded, blobs, before, from = {}, {}, nil, nil, nil
  local retrying = tonumber(head[2] or 0) > 0
  if not retrying and turn > 1 or turn == 0 and head[1] == 'cancelled' then
    return head, open
  end
  if large then
    local bytes = not retrying and mask ~= '' and added(bitmap, first, mask)
    if bytes then
      return head, true, bytes
    end
    open, before, from = open_by_bits(bitmap, index)
  else
    for place = 1, #index do
      open[place] = not head[8 + place]
    end
  end
  if retrying then
    recorded, blobs = read_turns(prefix .. 't:' .. id, large, index)
    if not recorded then
      return head, {}, nil, false
    end
    for place = 1, #index do
      if turn ~= 0 and open[place] and turn_of(recorded[place]) ~= turn then
        open[place] = nil
      end
    end
  end
  return head, open, nil, recorded, blobs, before, from
end
