-- Keeps contents of pushes, and of each the devices that it is for, while these are few. A repeat changes no content.
--
-- KEYS  1 ps:T:live:<id> of one of them
-- ARGV  1 prefix `ps:T:`; then for each: id, until when it is kept ms, content, number of devices or 0 for many, and
--       the digest of each device's id

-- layout: FEW

local call, prefix, at = redis.call, ARGV[1], 2
while at <= #ARGV do
  local key, count = prefix .. 'live:' .. ARGV[at], tonumber(ARGV[at + 3])
  local is_new = call('HSETNX', key, 'b', ARGV[at + 2]) == 1
  if is_new then
    call('PEXPIREAT', key, ARGV[at + 1])
  end
  if is_new or call('HEXISTS', key, '*') == 0 then
    for device = at + 4, at + 3 + count do
      call('HSET', key, ARGV[device], '')
    end
    if count == 0 or not (is_new and count <= FEW) and call('HLEN', key) > FEW + 1 then
      for _, field in ipairs(call('HKEYS', key)) do
        if field ~= 'b' then
          call('HDEL', key, field)
        end
      end
      call('HSET', key, '*', '')
    end
  end
  at = at + 4 + count
end
