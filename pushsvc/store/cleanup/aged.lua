-- Removes expired entries from a stream or a sorted set, a limited number at a time.
--
-- KEYS  1 the stream, or the sorted set with instants as scores; 2 the key of the id of the last removed entry, for
--       streams that are read by a cursor
-- ARGV  1 the oldest instant to keep, ms; 2 the maximum number of entries; 3 1 to count only; 4 where to continue the
--       count, or ''
-- Returns { number of entries, where to continue, or '' at the end }.

local oldest, most, count_only = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'zset' then
  if count_only then
    return { redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. oldest), '' }
  end
  local found = #redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. oldest, 'LIMIT', 0, most)
  if found > 0 then
    redis.call('ZREMRANGEBYRANK', KEYS[1], 0, found - 1)
  end
  return { found, found == most and 'on' or '' }
elseif kind ~= 'stream' then
  return { 0, '' }
end
local first = (count_only and ARGV[4] ~= '') and '(' .. ARGV[4] or '-'
local entries = redis.call('XRANGE', KEYS[1], first, string.format('%.0f', oldest - 1), 'COUNT', most)
for e = 1, #entries do
  entries[e] = entries[e][1]
end
if #entries > 0 and not count_only then
  redis.call('XDEL', KEYS[1], unpack(entries))
  if KEYS[2] then
    redis.call('SET', KEYS[2], entries[#entries])
  end
end
return { #entries, #entries == most and entries[most] or '' }
