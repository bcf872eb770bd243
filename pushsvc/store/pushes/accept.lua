-- Accepts pushes: each becomes a status hash and its entries, completely or not at all.
--
-- A push whose id is known already does not change, so that the caller may repeat the call after a lost answer. When
-- memory is full the first write is refused before anything else is written. Keys other than KEYS[1] are built from the
-- prefix: they share its hash tag, and naming four of them a push would cost more than writing them.
--
-- KEYS  1 ps:T:pending
-- ARGV  1 prefix `ps:T:`; 2 '' or what this process reads of it at once, see handing.lua; then the pushes, see
--       enqueue.lua
-- Returns { the pending counters of the shard, flat: field, value, ..; what was read, see handing.lua }

-- include: enqueue
-- include: reading
-- include: handing

local added = enqueue(ARGV[1], 3)
return { redis.call('HGETALL', KEYS[1]), hand_over(ARGV[2], added) }
