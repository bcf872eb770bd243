-- Puts an entry that cannot be decoded aside, whole, and acknowledges it: it neither blocks its stream nor is lost.
--
-- KEYS  1 the stream; 2 ps:T:quarantine
-- ARGV  1 group, or '' for a stream that has none; 2 entry id; 3 why
-- Returns 1, or 0 when the entry is gone or somebody else did it already.

local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
local ours = ARGV[1] == '' or redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 1
if not ours or not entry then
  return 0
end
redis.call('XADD', KEYS[2], '*', 'b', entry[2][2] or '', 'from', KEYS[1], 'id', ARGV[2], 'why', ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[2])
return 1
