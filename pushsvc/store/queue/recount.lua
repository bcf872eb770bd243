-- Sets right what is counted as pending of a platform in lanes that are empty.
--
-- A failover may bring a server that is behind, or an empty one: what was counted on the old one ends on the new one,
-- and the counters stay off by so much. Of an empty lane nothing is pending but what waits for its retry.
--
-- KEYS  1 ps:T:pending
-- ARGV  1 prefix `ps:T:`; 2 platform; 3 most retries to count; 4 most of their targets to ask the fence for. With more
--       of either nothing is counted.
-- Returns how many counters were wrong.

-- include: turns
-- include: fence
-- include: waiting

local prefix, platform, most, room, wrong = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), 0

local function set(field, count)
  if tonumber(redis.call('HGET', KEYS[1], field) or 0) ~= count then
    redis.call('HSET', KEYS[1], field, count)
    wrong = wrong + 1
  end
end

-- The lane, guard and count of each retry; nothing where they are too many.
local function retries_of(key)
  if redis.call('ZCARD', key) > most then
    return
  end
  local found = {}
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    local lane, guard, count = parts_of(member)
    if lane then
      room = room - (guard == '' and 0 or count)
      found[#found + 1] = { lane, guard, count }
    end
  end
  return room >= 0 and found
end

local retries = retries_of(prefix .. 'retry:' .. platform)
if retries then
  local waiting, all = { urgent = 0, normal = 0, bulk = 0 }, { ack = 0, retry = 0 }
  for r = 1, #retries do
    local lane, guard, count = unpack(retries[r])
    if waiting[lane] then
      local open, records, acks = count, {}, 0
      if guard ~= '' then
        local due, left, _, _, found = read_guard(prefix, guard)
        if due then
          open, records = left, found
        end
      end
      for p = 1, #records do
        acks = acks + (mark_of(records[p]) == 'w' and 1 or 0)
      end
      waiting[lane] = waiting[lane] + open
      all.ack, all.retry = all.ack + acks, all.retry + open - acks
    end
  end
  for lane, count in pairs(waiting) do
    if redis.call('XLEN', prefix .. 'q:' .. platform .. ':' .. lane) == 0 then
      set(platform .. ':' .. lane, count)
    end
  end
  set(platform .. ':ack', all.ack)
  set(platform .. ':retry', all.retry)
end
if redis.call('ZCARD', prefix .. 'scheduled') == 0 then
  set('scheduled', 0)
end
return wrong
