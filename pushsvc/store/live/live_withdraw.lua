-- Makes a push expire at once in every stream that refers to it.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 now ms; 3 hour of the push; 4 its digest, 4 bytes; 5 its id

-- include: live_stream

local prefix, hour, digest = ARGV[1], pack('>I2', tonumber(ARGV[3])), ARGV[4]
while true do
  local key = hour .. digest
  local facts = facts_of(prefix, key)
  if not facts then
    return 0
  end
  local _, _, _, _, _, id = unpack_bytes('>BI6I6BI4Bc0', facts)
  if byte(facts, 1) == 1 and id == ARGV[5] then
    call('HSET', facts_key(prefix, key), digest, sub(facts, 1, 1) .. pack('>I6', tonumber(ARGV[2])) .. sub(facts, 8))
    return 1
  end
  digest = pack('>I4', (unpack_bytes('>I4', digest) + 1) % 4294967296)
end
