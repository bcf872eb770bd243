-- Included by others: how a member is put into a retry set, which waiting.lua describes.

local FIRST_LOOK, LATER_LOOK = 60000, 3600000 -- ms

-- When to look at a member that is due then: with a guard, at `later` at the latest.
local function look_at(due, guard, later)
  return string.format('%.0f', guard ~= '' and math.min(due, later) or due)
end

local function place_field(channel, score)
  return '@' .. channel .. ' ' .. score
end
