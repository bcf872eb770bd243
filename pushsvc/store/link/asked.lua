-- Included by scripts that count: a question whose answer was lost is asked again, and counts once.
--
-- KEYS[2], where the question may be asked again, keeps the number and the answer of the last one of its asker.

local KEEP_MS = 60000

-- What was answered to this question before, or nil.
local function known_answer(number, again)
  if again ~= '1' then
    return nil
  end
  local kept = redis.call('GET', KEYS[2])
  local start = number .. ' '
  if kept and string.sub(kept, 1, #start) == start then
    return cmsgpack.unpack(string.sub(kept, #start + 1))
  end
end

local function keep_answer(number, answer)
  if KEYS[2] then
    redis.call('SET', KEYS[2], number .. ' ' .. cmsgpack.pack(answer), 'PX', KEEP_MS)
  end
end
