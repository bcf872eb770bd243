-- Included by others, behind reading.lua: reads for the consumer that accepts pushes, in the step that writes them, as
-- much as it has put into the lanes. What waited there before goes first.
--
-- `to` is '' where nothing is to be read, or MessagePack of group, consumer and the key of the epoch, then for each lane
-- `<platform>:<lane>`, its key, those of the suppression list and of the marks, and the expected targets an entry. `added` has by lane how many targets were put there, or is nil where all pushes were
-- known: an earlier try has written them, and its answer was lost with what it had read.
-- Returns false where nothing was asked for, 0 where an earlier answer was lost, else for each lane what take.lua
-- returns, nothing where nothing was read, or false where reading it has failed.

local FIELDS = 5

local function hand_over(to, added)
  if to == '' then
    return false
  elseif not added then
    return 0
  end
  local asked, answers = cmsgpack.unpack(to), {}
  for at = 4, #asked, FIELDS do
    local answer, wanted = {}, added[asked[at]]
    if wanted then
      local entries, again = read_lane(asked[at + 1], asked[1], asked[2], wanted, asked[at + 4])
      answer = entries and { entries, redis.call('GET', asked[3]) or '0', redis.call('ZCARD', asked[at + 2]),
        redis.call('ZREVRANGE', asked[at + 3], 0, 0, 'WITHSCORES'), again }
    end
    answers[#answers + 1] = answer or false
  end
  return answers
end
