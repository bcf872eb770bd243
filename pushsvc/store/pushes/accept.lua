-- Accepts pushes: each becomes a status hash and its entries, completely or not at all.
--
-- A push whose id is known already does not change, so that the caller may repeat the call after a lost answer. When
-- memory is full the first write is refused before anything else is written. Keys other than KEYS[1] are built from the
-- prefix: they share its hash tag, and naming four of them a push would cost more than writing them.
--
-- KEYS  1 ps:T:pending
-- ARGV  1 prefix `ps:T:`; then the pushes, see enqueue.lua
-- Returns the pending counters of the shard, flat: field, value, ...

-- include: enqueue

enqueue(ARGV[1], 2)
return redis.call('HGETALL', KEYS[1])
