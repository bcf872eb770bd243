-- Removes dead letters, and decrements the count of letters that name their content. A content that no letter names is
-- deleted here if its push has ended, otherwise when the last delivery of the push ends: see retire.lua.
--
-- KEYS  1 ps:T:dead; then of each letter ps:T:p:<id> and ps:T:v:<id> of its push
-- ARGV  the entry ids of the letters, in the order of the keys
-- Returns the number of letters that existed, so that a repeat counts none twice.

-- include: retire

local function is_over(push)
  local state, total = unpack(redis.call('HMGET', push, 'st', 'n'))
  return state and state ~= 'expanding' and state ~= 'scheduled' and ended_of_push(push) == tonumber(total)
end

local gone = 0
for k = 1, #ARGV do
  local push, content = KEYS[2 * k], KEYS[2 * k + 1]
  if redis.call('XDEL', KEYS[1], ARGV[k]) == 1 then
    gone = gone + 1
    if redis.call('HEXISTS', content, '#') == 1 and redis.call('HINCRBY', content, '#', -1) <= 0 and is_over(push) then
      redis.call('DEL', content)
    end
  end
end
return gone
