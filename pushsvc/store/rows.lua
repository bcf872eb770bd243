-- Reads the rows of small pushes.
--
-- KEYS  ps:T:p:<id>, ..
-- ARGV  1 how many fields a push has at most to be read at once
-- Returns for each { index, row, .. }, or false where it has more.

local most = tonumber(ARGV[1])
local found = {}
for k = 1, #KEYS do
  local rows = false
  if redis.call('HLEN', KEYS[k]) <= most then
    local flat = redis.call('HGETALL', KEYS[k])
    rows = {}
    for f = 1, #flat, 2 do
      if string.find(flat[f], '^%d+$') then
        rows[#rows + 1], rows[#rows + 2] = flat[f], flat[f + 1]
      end
    end
  end
  found[k] = rows
end
return found
