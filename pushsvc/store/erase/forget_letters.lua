-- Takes dead letters out, and counts each off the content that it names: a content that none names goes when the last
-- delivery of its push ends (see retire.lua), or by release.lua where all have ended.
--
-- KEYS  1 ps:T:dead; then of each letter ps:T:v:<id> of its push
-- ARGV  the entry ids of the letters, in the order of the keys
-- Returns how many there were. A letter counts once, however often this is asked.

local gone = 0
for k = 1, #ARGV do
  if redis.call('XDEL', KEYS[1], ARGV[k]) == 1 then
    gone = gone + 1
    if redis.call('HEXISTS', KEYS[k + 1], '#') == 1 then
      redis.call('HINCRBY', KEYS[k + 1], '#', -1)
    end
  end
end
return gone
