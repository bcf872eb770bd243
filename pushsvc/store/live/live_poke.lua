-- Puts an entry into the inbox of a gateway, numbered from 1 on, so that its reader sees when some were lost.
--
-- KEYS  1 the inbox
-- ARGV  1 most entries; 2 lifetime ms; 3 encoded items
-- Returns the number

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local number = (last and tonumber(last[2][2]) or 0) + 1
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'n', number, 'i', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return number
