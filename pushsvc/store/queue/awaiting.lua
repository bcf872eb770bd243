-- Finds the retries that wait for devices to acknowledge some deliveries. Of a push with many turns or retries it finds
-- none: they wait for their time.
--
-- KEYS  1 ps:T:pending
-- ARGV  1 prefix `ps:T:`; then for each delivery the id of its push, its total, its index
-- Returns for each the encoded chunk that it goes on in, or '' where it waits for no acknowledgement.

-- include: turns
-- include: fence
-- include: waits
-- include: waiting

local FIELDS, PLACES = 1000, 50 -- of a push's turns, and of its retries

local prefix = ARGV[1]

-- Whether a guard is that of a delivery in this turn.
local function guards(guard, id, turn, index)
  local of_turn, spans, of_push = string.match(guard, '^@%d+,%d+,(%d+),([%d;-]*),(.+)$')
  if of_push == id and tonumber(of_turn) == turn then
    for first, last in string.gmatch(spans, '(%d+)-(%d+)') do
      if tonumber(first) <= index and index <= tonumber(last) then
        return true
      end
    end
  end
  return false
end

-- The times at which retries of a push are due at a channel.
local function scores_of(turns, channel)
  local found, cursor = {}, '0'
  if redis.call('HLEN', turns) > FIELDS then
    return found
  end
  repeat
    local step = redis.call('HSCAN', turns, cursor, 'MATCH', place_field(channel, '*'), 'COUNT', FIELDS)
    for at = 1, #step[2], 2 do
      found[#found + 1] = string.match(step[2][at], ' (%d+)$')
    end
    cursor = step[1]
  until cursor == '0'
  return #found > PLACES and {} or found
end

local function chunk_of(id, total, index)
  local turns = prefix .. 't:' .. id
  local records = read_turns(turns, is_large(total), { index })
  local record = records and records[1]
  if mark_of(record) ~= 'w' then
    return ''
  end
  local channel = string.match(record, ' ([^ ]+):%a+ ')
  for _, score in ipairs(scores_of(turns, channel)) do
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'retry:' .. channel, score, score)) do
      local lane, guard, _, chunk = parts_of(member)
      if lane and guards(guard, id, turn_of(record), index) then
        return chunk
      end
    end
  end
  return ''
end

local answer = {}
for at = 2, #ARGV, 3 do
  answer[#answer + 1] = chunk_of(ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]))
end
return answer
