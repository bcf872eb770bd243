-- Reads entries of a lane until enough targets are together, and returns what is needed to know which targets to leave out.
--
-- COUNT counts entries, but an entry may hold one target or hundreds; reading in small steps until the sum is
-- reached keeps what a process holds near what it asked for. At least one entry is read where there is one.
-- The consumer group is made by the first reader, from the stream's beginning. The fields of an entry are `c`, its chunks;
-- `n`, the number of their targets, unless that is 1; and `a` where it was added again.
--
-- KEYS  1 ps:T:q:<platform>:<lane>; 2 ps:T:epoch; 3 ps:T:sup:<platform>; 4 ps:T:moved:<platform>
-- ARGV  1 group; 2 consumer; 3 targets wanted; 4 expected targets an entry
-- Returns { entries as id, blob, id, blob, ..; epoch; size of the suppression list; the newest mark with its instant;
--           the ids of entries that were added again (see requeue.lua); 1 where nothing was left, 0 where there may be more }

local STEP = 16
local wanted, expected = tonumber(ARGV[3]), tonumber(ARGV[4])
local entries, again = {}, {}
local sum = 0
while sum < wanted do
  local step = math.max(1, math.min(STEP, math.floor((wanted - sum) / expected)))
  local read = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', step, 'STREAMS', KEYS[1], '>')
  if read and read.err then
    if not string.find(read.err, 'NOGROUP', 1, true) then
      return redis.error_reply(read.err)
    end
    redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
  elseif not read then
    break
  else
    local got, before = read[1][2], sum
    for e = 1, #got do
      local fields = got[e][2]
      entries[#entries + 1] = got[e][1]
      entries[#entries + 1] = fields[1] == 'c' and fields[2] or ''
      if fields[5] == 'a' then
        again[#again + 1] = got[e][1]
      end
      sum = sum + (tonumber(fields[4]) or 1)
    end
    if #got < step then
      break
    end
    expected = math.max(1, (sum - before) / #got)
  end
end
return { entries, redis.call('GET', KEYS[2]) or '', redis.call('ZCARD', KEYS[3]),
  redis.call('ZREVRANGE', KEYS[4], 0, 0, 'WITHSCORES'), again, sum < wanted and 1 or 0 }
