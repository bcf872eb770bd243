-- Returns how many pushes in the streams of devices are unread: those behind what was read that have neither expired
-- nor been withdrawn.
--
-- KEYS  1 ps:D:count
-- ARGV  1 prefix `ps:D:`; 2 now ms; then the digests of the devices' ids
-- Returns for each the number, or -1 without a stream that this version can read.

-- include: live_stream
-- include: live_open

local answer = {}
for i = 3, #ARGV do
  local s = stream_at(ARGV[1], ordinal_of(ARGV[1], ARGV[i]))
  answer[#answer + 1] = s and open_after(ARGV[1], s, s.read, tonumber(ARGV[2])) or -1
end
return answer
