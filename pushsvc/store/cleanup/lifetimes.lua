-- Finds keys that have lost their lifetime, gives it back, and deletes what is older than that.
--
-- A key here that should have a lifetime and has none comes from a backup that was restored by hand, or from a tool. What
-- belongs to a push follows the push: its status says when it was last changed. A push with open deliveries has none
-- yet; its status is left over where it has been open for longer than any delivery may be, and nothing waits for it.
--
-- KEYS  keys of one slot
-- ARGV  1 now ms; 2 status TTL ms; 3 dead-letter TTL ms; 4 1 to count only; 5 ms for which a delivery may be open; then
--       for each key: `push` for a status, `part`
--       for what belongs to one, or the lifetime that it has from now on in ms
-- Returns for each key 0 where all is well, 1 where it was deleted, 2 where it has a lifetime again.

local now, ttl, dead_ttl, count_only = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local open_most = tonumber(ARGV[5])

local function of_push(key, first)
  return (string.gsub(key, '^(ps:%b{}:)%a:', '%1' .. first .. ':'))
end

local ENDS = { 'n:failed', 'n:sent', 'n:invalid', 'n:expired', 'n:suppressed', 'n:cancelled' }

-- Whether its time or its audience is still to come.
local function waits(push)
  return redis.call('EXISTS', of_push(push, 's')) == 1 or redis.call('EXISTS', of_push(push, 'x')) == 1
end

-- When the lifetime of a push is over, ms, and whether it is open.
local function ending(push)
  local head = redis.call('HMGET', push, 'up', 'due', 'st', 'n', unpack(ENDS))
  local last = math.max(tonumber(head[1] or 0), tonumber(head[2] or 0))
  local over = 0
  for at = 5, 4 + #ENDS do
    over = over + tonumber(head[at] or 0)
  end
  local open = head[3] == 'expanding' or (head[3] ~= 'done' and (tonumber(head[4]) or 0) > over)
    or waits(push)
  local span = tonumber(head[5] or 0) > 0 and math.max(ttl, dead_ttl) or ttl
  return last + span + (open and open_most or 0), open
end

local function keep_until(key, at)
  redis.call('PEXPIREAT', key, string.format('%.0f', at))
end

local function mend_push(push)
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
  return over and 1 or 2
end

local function mend_part(key)
  local left = redis.call('PTTL', of_push(key, 'p'))
  if left == -1 then
    return 0 -- both are mended with the push
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

local done = {}
for k = 1, #KEYS do
  local key, kind = KEYS[k], ARGV[5 + k]
  if redis.call('PTTL', key) ~= -1 then
    done[k] = 0
  elseif kind == 'push' then
    done[k] = mend_push(key)
  elseif kind == 'part' then
    done[k] = mend_part(key)
  else
    if not count_only then
      redis.call('PEXPIRE', key, kind)
    end
    done[k] = 2
  end
end
return done
