-- Adds an API key, unless its app has another one of that name.
--
-- KEYS  1 the hash of all keys
-- ARGV  1 SHA-256 of the key; 2 the key as JSON
-- Returns 1, also where it is there already, or 0.

local added = cjson.decode(ARGV[2])
local known = redis.call('HGETALL', KEYS[1])
for at = 1, #known, 2 do
  -- What a newer version wrote in another form is left alone.
  local read, key = pcall(cjson.decode, known[at + 1])
  if read and type(key) == 'table' and key.app == added.app and key.name == added.name and known[at] ~= ARGV[1] then
    return 0
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
