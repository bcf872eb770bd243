-- Reads a page of a topic's devices, in the order of their ordinals.
--
-- KEYS  1 ps:D:t:<topic>; 2 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 the first ordinal that is wanted; 3 how many at most; 4 the first that is not, or 0: that
--       of the next new device
-- Returns { where to go on, or -1 where there are no more, the first ordinal that is not wanted, document, .. }

-- layout: BLOCK CONTAINER DENSE

local LISTED = 16 -- documents of one list that are asked for one by one
local PROBE = 32 -- containers asked for at once; where all are empty, the names of all are looked through

local prefix, first, room, bound = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if bound == 0 then
  bound = tonumber(redis.call('HGET', KEYS[2], 'next') or 0)
end

-- The containers from `number` on that are likely to be the next ones, in order.
local function following(number)
  local names = {}
  for i = 1, PROBE do
    names[i] = string.format('%d', number + i - 1)
  end
  local values, found = redis.call('HMGET', KEYS[1], unpack(names)), {}
  for i = 1, PROBE do
    if values[i] then
      found[#found + 1] = { number + i - 1, values[i] }
    end
  end
  if #found > 0 then
    return found
  end
  local nearest
  for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
    local candidate = tonumber(name) -- nil is the count's name
    if candidate and candidate >= number and not (nearest and nearest <= candidate) then
      nearest = candidate
    end
  end
  return nearest and { { nearest, redis.call('HGET', KEYS[1], string.format('%d', nearest)) } } or {}
end

-- The members of a container, in order.
local function members_of(number, value)
  local base, members = number * CONTAINER, {}
  if #value < DENSE then
    for i = 1, #value, 2 do
      members[#members + 1] = base + struct.unpack('>I2', value, i)
    end
    table.sort(members)
    return members
  end
  for i = 1, DENSE do
    local byte = string.byte(value, i)
    if byte ~= 0 then
      local bit, n = 128, base + (i - 1) * 8
      while byte > 0 do
        if byte >= bit then
          byte = byte - bit
          members[#members + 1] = n
        end
        bit, n = bit / 2, n + 1
      end
    end
  end
  return members
end

local wanted = {}
local number = math.floor(first / CONTAINER)
while #wanted < room do
  local found = following(number)
  if #found == 0 then
    break
  end
  for _, each in ipairs(found) do
    for _, n in ipairs(#wanted < room and members_of(each[1], each[2]) or {}) do
      if n >= first and n < bound and #wanted < room then
        wanted[#wanted + 1] = n
      end
    end
    number = each[1] + 1
  end
end

local answer = { #wanted < room and -1 or wanted[#wanted] + 1, bound }
local from = 1
while from <= #wanted do
  local block, to = math.floor(wanted[from] / BLOCK), from
  while to < #wanted and wanted[to + 1] < (block + 1) * BLOCK do
    to = to + 1
  end
  local key = string.format('%sd:%d', prefix, block)
  -- A list is walked to each place that is asked for: of many it is read once, as a whole.
  local all = to - from >= LISTED and redis.call('LRANGE', key, 1, -1)
  for i = from, to do
    local place = 1 + wanted[i] % BLOCK
    answer[#answer + 1] = all and all[place] or redis.call('LINDEX', key, place)
  end
  from = to + 1
end
return answer
