-- Included by others behind live_stream: what is open in a stream.

-- Whether a push is open at `now`, by its key. The streams of a call are mostly of the same pushes.
local open = {}
local function is_open(prefix, key, now)
  if open[key] == nil then
    local facts = facts_of(prefix, key)
    open[key] = facts and expires_at(facts) > now or false
  end
  return open[key]
end

-- How many pushes behind an offset are open; and how many behind another one, which is not before it.
local function open_after(prefix, s, offset, now, later)
  local count, behind, from = 0, 0, later and count_to(s, later)
  for record = count_to(s, offset), #s.records / s.width - 1 do
    if is_open(prefix, key_at(s, record), now) then
      count = count + 1
      behind = behind + (from and record >= from and 1 or 0)
    end
  end
  return count, behind
end
