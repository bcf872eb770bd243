-- Finds the retries that wait for devices to acknowledge some deliveries.
--
-- KEYS  1 ps:T:pending
-- ARGV  1 prefix `ps:T:`; then for each delivery the id of its push, its total, its index
-- Returns for each the encoded chunk that it goes on in, or '' where it waits for no acknowledgement.

-- include: turns
-- include: fence
-- include: waiting

local FIELDS = 1000 -- of a push's turns, in one step

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

local function chunk_of(id, total, index)
  local turns = prefix .. 't:' .. id
  local records = read_turns(turns, is_large(total), { index })
  local record = records and records[1]
  if mark_of(record) ~= 'w' then
    return ''
  end
  local channel, cursor = string.match(record, ' ([^ ]+):%a+ '), '0'
  repeat
    local found = redis.call('HSCAN', turns, cursor, 'MATCH', place_field(channel, '*'), 'COUNT', FIELDS)
    for at = 1, #found[2], 2 do
      local score = string.match(found[2][at], ' (%d+)$')
      for _, member in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'retry:' .. channel, score, score)) do
        local lane, guard, _, chunk = parts_of(member)
        if lane and guards(guard, id, turn_of(record), index) then
          return chunk
        end
      end
    end
    cursor = found[1]
  until cursor == '0'
  return ''
end

local answer = {}
for at = 2, #ARGV, 3 do
  answer[#answer + 1] = chunk_of(ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]))
end
return answer
