-- Included by others: the document of the device with ordinal n, or '' where there is none.

-- layout: BLOCK

local function document_of(prefix, n)
  return redis.call('LINDEX', string.format('%sd:%d', prefix, math.floor(n / BLOCK)), 1 + n % BLOCK) or ''
end
