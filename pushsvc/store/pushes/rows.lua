-- Reads the rows of small pushes.
--
-- KEYS  ps:T:p:<id>, ..
-- Returns for each { index, row, .. }.

local found = {}
for k = 1, #KEYS do
  local flat = redis.call('HGETALL', KEYS[k])
  local rows = {}
  for f = 1, #flat, 2 do
    if string.find(flat[f], '^%d+$') then
      rows[#rows + 1], rows[#rows + 2] = flat[f], flat[f + 1]
    end
  end
  found[k] = rows
end
return found
