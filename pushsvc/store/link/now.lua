-- The server's own clock, which all machines share.
--
-- KEYS  1 any key: on a cluster, its node is asked
-- Returns Unix ms

local time = redis.call('TIME')
return time[1] * 1000 + math.floor(time[2] / 1000)
