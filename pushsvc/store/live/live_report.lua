-- Counts what devices report of pushes, each device once for a push and an event.
--
-- The devices that have reported an event are kept as the registry keeps the members of a topic: in containers of 4,096
-- ordinals, each a list of 2-byte numbers, or a bitmap where that is shorter.
--
-- KEYS  1 ps:T:reported; 2 ps:T:gone:reported
-- ARGV  1 prefix `ps:T:`; 2 lifetime ms of a push whose status has none yet; 3 most events to keep in the log, about;
--       4 the oldest event to keep, ms; then for each report push id, event, ordinal of the device, and the encoded
--       event for the log or ''
-- Returns for each 1 where it was counted, 0 where it was not the first or there is no such push

-- layout: CONTAINER DENSE
-- include: event_log

local call, byte, sub, floor = redis.call, string.byte, string.sub, math.floor
local prefix = ARGV[1]

local function with_bit(bitmap, low)
  local at, bit = floor(low / 8) + 1, 2 ^ (7 - low % 8)
  local value = byte(bitmap, at)
  if floor(value / bit) % 2 == 1 then
    return nil
  end
  return sub(bitmap, 1, at - 1) .. string.char(value + bit) .. sub(bitmap, at + 1)
end

-- The container with a number more, or nil where it has it.
local function with(members, low)
  if #members == DENSE then
    return with_bit(members, low)
  end
  local wanted = struct.pack('>I2', low)
  for i = 1, #members, 2 do
    if sub(members, i, i + 1) == wanted then
      return nil
    end
  end
  if #members + 2 < DENSE then
    return members .. wanted
  end
  local bitmap = string.rep('\0', DENSE)
  for i = 1, #members, 2 do
    bitmap = with_bit(bitmap, (struct.unpack('>I2', members, i)))
  end
  return with_bit(bitmap, low)
end

local answer, logged = {}, false
for i = 5, #ARGV, 4 do
  local push, event, n = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local key, counted = prefix .. 'seen:' .. push, 0
  local left = call('PTTL', prefix .. 'p:' .. push)
  if left ~= -2 then
    local field = event .. ':' .. floor(n / CONTAINER)
    local members = with(call('HGET', key, field) or '', n % CONTAINER)
    if members then
      call('HSET', key, field, members)
      call('HINCRBY', key, event, 1)
      call('PEXPIRE', key, left > 0 and left or ARGV[2])
      if ARGV[i + 3] ~= '' then
        call('XADD', KEYS[1], '*', 'e', ARGV[i + 3])
        logged = true
      end
      counted = 1
    end
  end
  answer[#answer + 1] = counted
end
if logged then
  trim_events(KEYS[1], KEYS[2], ARGV[3], ARGV[4])
end
return answer
