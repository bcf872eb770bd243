-- Ends the expansion of a push whose record cannot be read: the push keeps the deliveries that it has.

-- include: retire

if redis.call('ZREM', KEYS[3], ARGV[2]) == 1 then
  redis.call('XADD', KEYS[4], '*', 'b', redis.call('HGET', KEYS[2], 'push') or '', 'from', KEYS[2], 'id', ARGV[2], 'why',
    ARGV[6])
  redis.call('DEL', KEYS[2])
  -- The record that was set aside names the content, so that this outlives the push's last delivery.
  local content = ARGV[1] .. 'v:' .. ARGV[2]
  if redis.call('EXISTS', content) == 1 then
    redis.call('HINCRBY', content, '#', 1)
  end
  local over = ended_of_push(KEYS[1]) == tonumber(redis.call('HGET', KEYS[1], 'n') or 0)
  redis.call('HSET', KEYS[1], 'st', over and 'done' or 'sending', 'up', ARGV[3])
  if over then
    retire(ARGV[1], ARGV[2], true, ARGV[4], ARGV[5])
  end
end
return 1
