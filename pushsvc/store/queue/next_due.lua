-- Says when the first member of a sorted set is due.
--
-- KEYS  1 ps:T:retry:<channel> or ps:T:scheduled; 2 for retries ps:T:recalled: what waits of cancelled pushes is due at once
-- Returns the time in Unix ms as text, or nothing where nothing waits.

if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1 then
  return '0'
end
return redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
