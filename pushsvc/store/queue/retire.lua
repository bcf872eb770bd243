-- Included by others: nothing of a push is open any more, so that its status has a lifetime from now on.
--
-- Until then it has none, however long the push waits: for its time, for its audience, in a lane, on a held route or
-- for a retry. What is kept beside it (bitmap and rows of a large push) ends with it. The content of a large push goes at
-- once, unless dead letters name it: then its own lifetime is that of the last of them.

-- Returns the lifetime of a push of which `failed` deliveries have failed: a replay opens those again, and needs to know
-- what has ended.
local function lifetime_of(failed, ttl, dead_ttl)
  return tonumber(failed or 0) > 0 and math.max(ttl, dead_ttl) or ttl
end

-- `failed` is read here where the caller does not know it.
local function retire(prefix, id, large, ttl, dead_ttl, failed)
  local push = prefix .. 'p:' .. id
  ttl = lifetime_of(failed or redis.call('HGET', push, 'n:failed'), ttl, dead_ttl)
  redis.call('PEXPIRE', push, ttl)
  if large then
    redis.call('PEXPIRE', prefix .. 'b:' .. id, ttl)
    redis.call('PEXPIRE', prefix .. 'r:' .. id, ttl)
    local content = prefix .. 'v:' .. id
    if tonumber(redis.call('HGET', content, '#') or 0) <= 0 then
      redis.call('DEL', content)
    end
  end
end

-- How many deliveries of a push have ended.
local function ended_of_push(push)
  local found = 0
  for _, count in ipairs(redis.call('HMGET', push, 'n:sent', 'n:failed', 'n:invalid', 'n:expired', 'n:suppressed',
    'n:cancelled')) do
    found = found + tonumber(count or 0)
  end
  return found
end
