-- Changes the scores of tokens in a list of suppressed ones, where they still have the expected one.
--
-- KEYS  1 ps:T:sup:<route>
-- ARGV  1 the new score; then for each token: its digest, the expected score
-- Returns 1.

for at = 2, #ARGV, 2 do
  if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[at]) or 0) == tonumber(ARGV[at + 1]) then
    redis.call('ZADD', KEYS[1], ARGV[1], ARGV[at])
  end
end
return 1
