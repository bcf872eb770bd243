-- Finds keys that have lost their lifetime, restores it, and deletes those whose lifetime is over.
--
-- A key without the lifetime that it should have comes from a backup that was restored by hand, or from a tool. What
-- belongs to a push has the lifetime of its status, which names its last change. A push with open deliveries has no
-- lifetime yet; its status is abandoned when it has been open for longer than any delivery may be and nothing waits for
-- it. No lifetime is shorter than the time for which the key is used.
--
-- KEYS  keys of one slot
-- ARGV  1 now ms; 2 status TTL ms; 3 dead-letter TTL ms; 4 1 to count only; 5 ms for which a delivery may be open; then
--       for each key: `push` for a status, `part` for what belongs to one, `content`, `bucket` or `limits` for the
--       keys of that name in keys.py, or the lifetime to set in ms
-- Returns for each key 0 where nothing was wrong, 1 where it was deleted, 2 where its lifetime was restored.

-- include: retire

local now, ttl, dead_ttl, count_only = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local open_most = tonumber(ARGV[5])
local DAY = 24 * 60 * 60 * 1000

local function of_push(key, first)
  return (string.gsub(key, '^(ps:%b{}:)%a:', '%1' .. first .. ':'))
end

-- Returns whether the time or the audience of a push is still to come.
local function waits(push)
  return redis.call('EXISTS', of_push(push, 's')) == 1 or redis.call('EXISTS', of_push(push, 'x')) == 1
end

-- Returns when the lifetime of a push is over, in ms, and whether it is open.
local function ending(push)
  local head = redis.call('HMGET', push, 'up', 'due', 'st', 'n', 'at', 'n:failed')
  local last = math.max(tonumber(head[1] or head[5] or 0), tonumber(head[2] or 0))
  local open = head[3] == 'expanding' or (head[3] ~= 'done' and (tonumber(head[4]) or 0) > ended_of_push(push))
    or waits(push)
  return last + lifetime_of(head[6], ttl, dead_ttl) + (open and open_most or 0), open
end

local function keep_until(key, at)
  redis.call('PEXPIREAT', key, string.format('%.0f', at))
end

-- Dead letters name it, including those of a push without a status; it is deleted earlier with the last of them.
local function keep_content(key)
  keep_until(key, now + math.max(open_most, dead_ttl))
end

local function restore_push(push)
  local at, open = ending(push)
  local over = at <= now and not waits(push)
  if open and not over then
    return 0
  end
  for _, first in ipairs({ 'p', 'b', 'r', 't', 'x' }) do
    local key = of_push(push, first)
    if not count_only and redis.call('PTTL', key) == -1 then
      if over then
        redis.call('DEL', key)
      else
        keep_until(key, at)
      end
    end
  end
  local content = of_push(push, 'v')
  if not count_only and redis.call('PTTL', content) == -1 then
    keep_content(content)
  end
  return over and 1 or 2
end

local function restore_part(key)
  local left = redis.call('PTTL', of_push(key, 'p'))
  if left == -1 then
    return 0 -- both are restored with the push, once it is no longer open
  end
  if not count_only then
    if left == -2 then
      redis.call('DEL', key)
    else
      redis.call('PEXPIRE', key, left)
    end
  end
  return left == -2 and 1 or 2
end

local function restore_content(key)
  if redis.call('PTTL', of_push(key, 'p')) == -1 then
    return 0 -- as above: a push that is open may be due in a year
  end
  if not count_only then
    keep_content(key)
  end
  return 2
end

-- It is used until it is full and its ramp is over: see lease.lua.
local function restore_bucket(key)
  if not count_only then
    keep_until(key, math.max(now + DAY, tonumber(redis.call('HGET', key, 'tat') or 0) / 1000))
  end
  return 2
end

-- It is used for two spans of time, and its number counts the spans since 1970: see limiter.lua.
local function restore_limits(key)
  if not count_only then
    keep_until(key, now + 2 * now / math.max(1, tonumber(string.match(key, ':(%d+)$') or 1)))
  end
  return 2
end

local RESTORE = {
  push = restore_push,
  part = restore_part,
  content = restore_content,
  bucket = restore_bucket,
  limits = restore_limits,
}

local done = {}
for k = 1, #KEYS do
  local key, kind = KEYS[k], ARGV[5 + k]
  if redis.call('PTTL', key) ~= -1 then
    done[k] = 0
  elseif RESTORE[kind] then
    done[k] = RESTORE[kind](key)
  else
    if not count_only then
      redis.call('PEXPIRE', key, kind)
    end
    done[k] = 2
  end
end
return done
