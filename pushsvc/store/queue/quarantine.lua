-- Puts an entry that cannot be decoded aside, and acknowledges it: it neither blocks its stream nor is lost. Of one in a
-- lane the part that can be decoded is added again, as requeue.lua does.
--
-- KEYS  1 the stream; 2 ps:T:quarantine
-- ARGV  1 group, or '' for a stream that has none; 2 entry id; 3 why; then, where a part of the entry can be decoded: the
--       other part, this one, and the number of its targets
-- Returns 1, or 0 when the entry is gone or another process did it already.

local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
local ours = ARGV[1] == '' or redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 1
if not ours or not entry then
  return 0
end
redis.call('XADD', KEYS[2], '*', 'b', ARGV[4] or entry[2][2] or '', 'from', KEYS[1], 'id', ARGV[2], 'why', ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[2])
if ARGV[5] then
  redis.call('XADD', KEYS[1], '*', 'c', ARGV[5], 'n', ARGV[6], 'a', 1)
end
return 1
