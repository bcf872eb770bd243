-- Included by others: reads entries of a lane for a consumer of its group, which is made by the first reader, from the
-- stream's beginning.
--
-- COUNT counts entries, but an entry may hold one target or hundreds; reading in small steps until the sum is reached
-- keeps what a process holds near what it asked for. At least one entry is read where there is one. Its fields are `c`,
-- the chunk; `n`, the number of its targets, unless that is 1; and `a` where it was added again.
--
-- `expected` is the number of targets an entry that is expected. Returns { entries as id, blob, id, blob, .. } and
-- { the ids of entries that were added again (see requeue.lua) }, or nil and what the server refused.

local STEP = 16

local function read_lane(lane, group, consumer, wanted, expected)
  local entries, again = {}, {}
  local sum = 0
  while sum < wanted do
    local step = math.max(1, math.min(STEP, math.floor((wanted - sum) / expected)))
    local read = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', step, 'STREAMS', lane, '>')
    if read and read.err then
      if not string.find(read.err, 'NOGROUP', 1, true) then
        return nil, read.err
      end
      redis.call('XGROUP', 'CREATE', lane, group, '0', 'MKSTREAM')
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
  return entries, again
end
