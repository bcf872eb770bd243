-- Since when the oldest delivery of each lane waits that could be sent now. Reads only.
--
-- A delivery in a lane's stream waits since its entry was written, and a retry since it was due.
--
-- KEYS  for each channel of a shard: its lanes' streams in the order of ARGV, then its retries
-- ARGV  1 now ms; then the lanes
-- Returns the time in ms for each lane, empty where nothing waits.

local oldest = {}

local function waits(lane, since)
  if not oldest[lane] or since < oldest[lane] then
    oldest[lane] = since
  end
end

for first = 1, #KEYS, #ARGV do
  for place = 2, #ARGV do
    local entries = redis.call('XRANGE', KEYS[first + place - 2], '-', '+', 'COUNT', 1)
    if entries[1] then
      waits(ARGV[place], tonumber(string.match(entries[1][1], '^%d+')))
    end
  end
  local due = redis.call('ZRANGEBYSCORE', KEYS[first + #ARGV - 1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, 1)
  if due[1] then
    waits(string.match(due[1], '^%a+') or ARGV[2], tonumber(due[2]))
  end
end

local answer = {}
for place = 2, #ARGV do
  local since = oldest[ARGV[place]]
  answer[#answer + 1] = since and string.format('%.0f', since) or ''
end
return answer
