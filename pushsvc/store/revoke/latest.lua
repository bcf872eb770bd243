-- Included by others: the newest order that was accepted lately for a digest, from the present slot back; or nil.

local function latest(prefix, slot, slots, digest)
  local newest
  for back = 0, slots - 1 do
    local order = redis.call('HGET', prefix .. string.format('latest:%d', slot - back), digest)
    if order and (not newest or newest < order) then
      newest = order
    end
  end
  return newest
end
