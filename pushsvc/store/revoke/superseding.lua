-- The newest order that the provider has accepted for each digest, or an empty string: see supersession.py.
--
-- KEYS  1 ps:T:latest:<slot>, of the present slot
-- ARGV  1 prefix `ps:T:`; 2 number of the slot; 3 how many slots count; then the digests

-- include: latest

local found = {}
for at = 4, #ARGV do
  local newest = redis.call('HGET', ARGV[1] .. 'c:' .. ARGV[at], 'a')
  local lately = latest(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[at])
  if lately and (not newest or newest < lately) then
    newest = lately
  end
  found[#found + 1] = newest or ''
end
return found
