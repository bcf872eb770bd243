-- Removes entries from the registry's indexes that lead to no device, or to one that they are not about.
--
-- Removes an entry only where it is still what it was, and so are the devices that it was judged by: otherwise it has
-- been changed meanwhile, and is judged again another time.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; then for each repair:
--         1 `field` or `member`                               2 key without its prefix, of a hash or a sorted set
--         3 field of the hash, member of the sorted set       4 the field's value, or ''
--         5 the field's value without the entries, or '' where nothing is left of it
--         6 entries that go         7 number of devices that it was judged by, then for each: ordinal, document or ''
-- Returns for each repair 1, or 0 where it did not take place.

-- include: document

local prefix = ARGV[1]

-- A topic's count went up with each of its members; with the last of them it goes.
local function leave_topic(key, entries)
  local left = math.max(0, tonumber(redis.call('HGET', key, '#') or 0) - entries)
  redis.call('HSET', key, '#', string.format('%d', left))
  if redis.call('HLEN', key) == 1 then
    redis.call('DEL', key)
    redis.call('ZREM', prefix .. 'topics', string.sub(key, #prefix + 3))
  end
end

local function repair_field(key, field, before, after, entries)
  if (redis.call('HGET', prefix .. key, field) or '') ~= before then
    return 0
  end
  if after == '' then
    redis.call('HDEL', prefix .. key, field)
  else
    redis.call('HSET', prefix .. key, field, after)
  end
  if string.sub(key, 1, 2) == 't:' then
    leave_topic(prefix .. key, entries)
  end
  return 1
end

-- A tombstone's label, behind `x:`, has its number of tombstones in the hash `x`.
local function repair_member(key, member)
  if redis.call('ZREM', prefix .. key, member) == 0 then
    return 0
  end
  local left = redis.call('ZCARD', prefix .. key)
  if left == 0 then
    redis.call('HDEL', prefix .. 'x', string.sub(key, 3))
  else
    redis.call('HSET', prefix .. 'x', string.sub(key, 3), left)
  end
  return 1
end

local done, at = {}, 2
while at <= #ARGV do
  local kind, key, name, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 6])
  local same = true
  for d = at + 7, at + 6 + 2 * count, 2 do
    same = same and document_of(prefix, tonumber(ARGV[d])) == ARGV[d + 1]
  end
  if not same then
    done[#done + 1] = 0
  elseif kind == 'field' then
    done[#done + 1] = repair_field(key, name, ARGV[at + 3], ARGV[at + 4], tonumber(ARGV[at + 5]))
  else
    done[#done + 1] = repair_member(key, name)
  end
  at = at + 7 + 2 * count
end
return done
