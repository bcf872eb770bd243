-- Every dispatcher has dropped these cancelled pushes: what is not in flight counts as cancelled from now on.
--
-- KEYS  1 ps:T:heard
-- ARGV  1 prefix `ps:T:`; then push ids
-- Returns how many were confirmed.

local confirmed = 0
for at = 2, #ARGV do
  local push = ARGV[1] .. 'p:' .. ARGV[at]
  if redis.call('HGET', push, 'st') == 'cancelled' then
    confirmed = confirmed + redis.call('HSET', push, 'ck', 1)
  end
end
return confirmed
