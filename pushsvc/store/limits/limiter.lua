-- Counts one push to each of many tokens (GCRA, see gcra.py), by this server's clock.
--
-- What is kept of a token is its TAT (theoretical arrival time), and only as long as it lies ahead of the clock. It
-- lies in a hash of all tokens of a span of time, so that a thousand tokens are read and written by a few commands and
-- forgotten when one key expires. A TAT a little ahead goes into a hash of a short span, one far ahead into a hash of a
-- long span: most tokens are pushed to once and leave the short hashes within seconds. A TAT only grows, so the largest
-- that any hash has is the right one. Hash number g begins at g * span and holds what was written during its span or
-- expires before (g + 2) * span, so two of each kind are read.
--
-- A push that must wait gets a time of its own: the end of the token's queue of waiters is kept beside the TATs. It is
-- advice, not a promise; a push is counted when it comes.
--
-- KEYS  1 ps:T:lim:<platform>:<family>; where the question may be asked again 2 ps:T:asked:<consumer>.<what>
-- ARGV  1 digests of 8 bytes each, at most 3,000; 2 interval us; 3 burst; 4 short span us; 5 long span us; with
--       KEYS[2] 6 number of the question; 7 whether it was asked before, 0 or 1
-- Returns { place from 0, wait ms, place, wait ms, .. } of those who must wait

-- include: asked

local answered = known_answer(ARGV[6], ARGV[7])
if answered then
  return answered
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local blob, interval = ARGV[1], tonumber(ARGV[2])
local span = interval * tonumber(ARGV[3])
local short, long = tonumber(ARGV[4]), tonumber(ARGV[5])
local short_number, long_number = math.floor(now / short), math.floor(now / long)
local count = #blob / 8

local tats = {}
local digests = { struct.unpack(string.rep('c8', count), blob) }
digests[count + 1] = nil -- the position behind the last

local function name(kind, number)
  return KEYS[1] .. ':' .. kind .. ':' .. string.format('%.0f', number)
end

-- Values are microseconds from the beginning of the hash's span: short numbers.
local function read(kind, number, base)
  local found = redis.call('HMGET', name(kind, number), unpack(digests))
  for i = 1, count do
    local value = found[i]
    if value then
      local tat = base + tonumber(value)
      local digest = digests[i]
      if tat > (tats[digest] or now) then
        tats[digest] = tat
      end
    end
  end
end

local begun = redis.call('EXISTS', name('s', short_number)) == 1
if begun then
  read('s', short_number, short_number * short)
end
if redis.call('EXISTS', name('s', short_number - 1)) == 1 then
  read('s', short_number - 1, (short_number - 1) * short)
end
-- Few are far ahead.
if redis.call('EXISTS', name('l', long_number), name('l', long_number - 1)) > 0 then
  read('l', long_number, long_number * long)
  read('l', long_number - 1, (long_number - 1) * long)
end

local function queue_end(digest)
  local tail = 0
  for number = long_number - 1, long_number do
    local value = redis.call('HGET', name('q', number), digest)
    if value then
      tail = math.max(tail, number * long + tonumber(value))
    end
  end
  return tail
end

local soon, late, waits = {}, {}, {}
local soon_size, late_size = 0, 0
local soon_base, late_base = short_number * short, long_number * long
local queued = false
-- Most have nothing ahead of the clock before it, and the same after it.
local fresh = now + interval
local fresh_text = string.format('%.0f', fresh - soon_base)
for i = 1, count do
  local digest = digests[i]
  local tat = tats[digest]
  if not tat then
    tats[digest] = fresh
    soon[soon_size + 1] = digest
    soon[soon_size + 2] = fresh_text
    soon_size = soon_size + 2
  else
    tat = math.min(tat, now + span)
    local earliest = tat + interval - span
    if earliest <= now then
      tat = tat + interval
      tats[digest] = tat
      if tat - now <= short then
        soon[soon_size + 1] = digest
        soon[soon_size + 2] = string.format('%.0f', tat - soon_base)
        soon_size = soon_size + 2
      else
        late[late_size + 1] = digest
        late[late_size + 2] = string.format('%.0f', tat - late_base)
        late_size = late_size + 2
      end
    else
      local due = math.max(earliest, queue_end(digest))
      if due > now + long - interval then
        due = earliest
      end
      redis.call('HSET', name('q', long_number), digest, string.format('%.0f', due + interval - late_base))
      queued = true
      local at = #waits
      waits[at + 1] = i - 1
      waits[at + 2] = math.ceil((due - now) / 1000)
    end
  end
end

local function expire(kind, number, length)
  redis.call('PEXPIREAT', name(kind, number), string.format('%.0f', math.ceil((number + 2) * length / 1000)))
end

if soon_size > 0 then
  redis.call('HSET', name('s', short_number), unpack(soon))
  if not begun then
    expire('s', short_number, short)
  end
end
if late_size > 0 then
  redis.call('HSET', name('l', long_number), unpack(late))
  expire('l', long_number, long)
end
if queued then
  expire('q', long_number, long)
end
keep_answer(ARGV[6], waits)
return waits
