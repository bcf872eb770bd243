-- Acknowledges everything up to an offset in each of some streams, or says what that would acknowledge.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 1 to change nothing; 3 1 to name what was not acknowledged before; then for each device the
--       digest of its id, epoch or -1 for any, offset
-- Returns for each { fault, acked, unacked, acked before, offset, index, platform, facts, .. of what is named }

-- include: live_stream

local prefix, look, named = ARGV[1], ARGV[2] == '1', ARGV[3] == '1'
local answer = {}
for i = 4, #ARGV, 3 do
  local n, epoch, offset = ordinal_of(prefix, ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local value = n and read_stream(prefix, n) or ''
  local s = value ~= '' and parse_stream(value)
  local fault = (not s and 'unknown') or (epoch >= 0 and epoch ~= s.epoch and 'epoch') or (offset > s.top and 'offset') or ''
  local before = s and s.acked or 0
  local own = { fault, before, 0, before }
  if s then
    local through = count_to(s, fault == '' and math.max(offset, s.acked) or s.acked)
    if fault == '' and offset > s.acked then
      -- Looked for from the end: many may stand before it that were acknowledged long ago.
      local first = through
      while named and first > 0 and offset_at(s, first - 1) > s.acked do
        first = first - 1
      end
      for record = first, through - 1 do
        local facts = facts_of(prefix, key_at(s, record))
        if facts then
          local index, platform = index_and_platform(s, record)
          local o = #own
          own[o + 1], own[o + 2], own[o + 3], own[o + 4] = offset_at(s, record), index, platform_named(prefix, platform), facts
        end
      end
      s.acked = offset
      if not look then
        write_stream(prefix, n, format_stream(s))
      end
    end
    own[2], own[3] = s.acked, #s.records / s.width - through
  end
  answer[#answer + 1] = own
end
return answer
