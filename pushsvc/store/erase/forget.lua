-- Removes entries from a stream and from its consumer group, so that a consumer that has read one records nothing.
--
-- KEYS  1 the stream
-- ARGV  1 group, or '' where the stream has none; then entry ids
-- Returns the number of entries that existed.

if ARGV[1] ~= '' then
  redis.pcall('XACK', KEYS[1], unpack(ARGV))
end
return redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
