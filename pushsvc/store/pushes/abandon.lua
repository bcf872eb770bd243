-- Ends the expansion of a push whose record cannot be read: it has the deliveries that it has.
--
-- KEYS  1 ps:T:p:<id>; 2 ps:T:x:<id>; 3 ps:T:expansions:<lane>; 4 ps:T:quarantine
-- ARGV  1 prefix `ps:T:`; 2 push id; 3 now ms; 4 status TTL ms; 5 why

-- include: retire

if redis.call('ZREM', KEYS[3], ARGV[2]) == 1 then
  redis.call('XADD', KEYS[4], '*', 'b', redis.call('HGET', KEYS[2], 'push') or '', 'from', KEYS[2], 'id', ARGV[2], 'why',
    ARGV[5])
  redis.call('DEL', KEYS[2])
  -- The record that was set aside names the content, so that this outlives the push's last delivery.
  local content = ARGV[1] .. 'v:' .. ARGV[2]
  if redis.call('EXISTS', content) == 1 then
    redis.call('HINCRBY', content, '#', 1)
  end
  local over = ended_of_push(KEYS[1]) == tonumber(redis.call('HGET', KEYS[1], 'n') or 0)
  redis.call('HSET', KEYS[1], 'st', over and 'done' or 'sending', 'up', ARGV[3])
  if over then
    retire(ARGV[1], ARGV[2], true, ARGV[4])
  end
end
return 1
