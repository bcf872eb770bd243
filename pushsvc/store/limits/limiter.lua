-- Counts one push to each of many tokens: see admit.lua.
--
-- KEYS  1 ps:T:lim:<platform>:<family>; where the question may be asked again 2 ps:T:asked:<consumer>.<what>
-- ARGV  1 digests of 8 bytes each, at most 3,000; 2 interval us; 3 burst; 4 short span us; 5 long span us; with
--       KEYS[2] 6 number of the question; 7 whether it was asked before, 0 or 1
-- Returns { place from 0, wait ms, place, wait ms, .. } of those who must wait

-- include: asked
-- include: admit

local answered = known_answer(ARGV[6], ARGV[7])
if answered then
  return answered
end
local waits = admit(KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]))
keep_answer(ARGV[6], waits)
return waits
