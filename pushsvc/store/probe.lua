-- Writes a key of no meaning, as a script: what refuses this refuses pushes too.
--
-- KEYS  1 ps:probe
-- ARGV  1 its lifetime, ms
-- Returns nothing.

redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
