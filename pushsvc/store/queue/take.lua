-- Reads entries of a lane until enough targets are together, and tells what is needed to know whom to leave out.
--
-- KEYS  1 ps:T:q:<platform>:<lane>; 2 ps:T:epoch; 3 ps:T:sup:<platform>; 4 ps:T:moved:<platform>
-- ARGV  1 group; 2 consumer; 3 targets wanted; 4 expected targets an entry
-- Returns { entries as id, blob, id, blob, ..; epoch; size of the suppression list; the newest mark with its instant;
--           the ids of entries that were added again (see requeue.lua) }

-- include: reading

local entries, again = read_lane(KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]))
if not entries then
  return redis.error_reply(again)
end
return { entries, redis.call('GET', KEYS[2]) or '0', redis.call('ZCARD', KEYS[3]),
  redis.call('ZREVRANGE', KEYS[4], 0, 0, 'WITHSCORES'), again }
