-- Makes a push expire at once in every stream that refers to it, and in those that it is yet to be appended to.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 hour of the push; 3 its digest, 4 bytes; 4 its id; 5 the facts to keep where it was
--       appended to no stream so far; 6 until when they are kept, ms

-- include: live_stream

local prefix = ARGV[1]
local key, facts = keep_facts(prefix, ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
if facts then
  local place = facts_key(prefix, key)
  call('HSET', place, sub(key, 3), sub(facts, 1, 1) .. pack('>I6', WITHDRAWN_AT) .. sub(facts, 8))
  call('PEXPIREAT', place, ARGV[6])
end
