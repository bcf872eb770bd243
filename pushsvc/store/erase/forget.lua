-- Takes entries out of a stream, for its consumer group too: who has read one of them already has nothing to record.
--
-- KEYS  1 the stream
-- ARGV  1 group, or '' where the stream has none; then entry ids
-- Returns how many there were.

if ARGV[1] ~= '' then
  redis.pcall('XACK', KEYS[1], unpack(ARGV))
end
return redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
