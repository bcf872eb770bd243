-- Included by others: what is recorded of some deliveries of a push.
--
-- A delivery is open for a turn when it has not ended and this turn is the one that is recorded for it; without a
-- record the turn is 1. This is the fence: what a process that was thought dead still has to say, or what is said
-- twice, finds its delivery closed.
--
-- A push of more than SMALL deliveries is large: it has a bit a delivery in place of a row. So is a push with a total
-- of 0: it is made from an audience, page by page, and nobody knew its total when the chunk was written.

local SMALL = 1000 -- keys.SMALL
local SLICE = 1000 -- Lua cannot unpack more than about 7,000 values at once

local function is_large(total)
  return total > SMALL or total == 0
end

-- Returns head, open. `head` is nil when the status of the push has run out: then nothing is known, and everything
-- is open. Else it is st, rt, n:sent, n:failed, n:invalid, n:expired, n:suppressed, n:cancelled. `open` has true or
-- false for each place in `index`; an index that comes twice is open at its first place only.
local function fence(prefix, id, total, turn, index)
  local open = {}
  local head = nil
  for first = 1, #index, SLICE do
    local last = math.min(first + SLICE - 1, #index)
    if not is_large(total) then
      head = redis.call('HMGET', prefix .. 'p:' .. id, 'st', 'rt', 'n:sent', 'n:failed', 'n:invalid', 'n:expired',
        'n:suppressed', 'n:cancelled', unpack(index, first, last))
      for place = first, last do
        open[place] = not head[8 + place - first + 1]
      end
    else
      local ask = {}
      for place = first, last do
        local at = #ask
        ask[at + 1], ask[at + 2], ask[at + 3] = 'GET', 'u1', index[place]
      end
      local bits = redis.call('BITFIELD', prefix .. 'b:' .. id, unpack(ask))
      for place = first, last do
        open[place] = bits[place - first + 1] == 0
      end
    end
  end
  if is_large(total) then
    head = redis.call('HMGET', prefix .. 'p:' .. id, 'st', 'rt', 'n:sent', 'n:failed', 'n:invalid', 'n:expired',
      'n:suppressed', 'n:cancelled')
  end

  if not head or not head[1] then
    head = nil
    for place = 1, #index do
      open[place] = true
    end
  elseif tonumber(head[2] or 0) == 0 then
    if turn ~= 1 then
      for place = 1, #index do
        open[place] = false
      end
    end
  else
    for first = 1, #index, SLICE do
      local last = math.min(first + SLICE - 1, #index)
      local turns = redis.call('HMGET', prefix .. 't:' .. id, unpack(index, first, last))
      for place = first, last do
        open[place] = open[place] and tonumber(turns[place - first + 1] or 1) == turn
      end
    end
  end

  if #index > 1 then
    local seen = {}
    for place = 1, #index do
      if seen[index[place]] then
        open[place] = false
      end
      seen[index[place]] = true
    end
  end
  return head, open
end
