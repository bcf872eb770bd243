-- Leaves a name that is due to one caller for a while.
--
-- KEYS  1 a sorted set of names, by the ms at which one is due
-- ARGV  1 name; 2 now ms; 3 until when it is left to the caller, ms
-- Returns 1, or 0 where it is gone or another caller has it.

local due = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not due or tonumber(due) > tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
