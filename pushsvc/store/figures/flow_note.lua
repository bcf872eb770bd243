-- Adds what a process has counted to the flow of an app, once, however often it is asked.
--
-- KEYS  1 ps:T:flow:<minute>
-- ARGV  1 lifetime ms; 2 the field of the process; 3 the mark of this note; then field, count, field, count, ..
-- Returns whether it was added: 0 where it is the last one that the process noted in this minute.

if redis.call('HGET', KEYS[1], ARGV[2]) == ARGV[3] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
for at = 4, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], ARGV[at], ARGV[at + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
