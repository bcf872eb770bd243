-- Gives permits of one bucket that many processes share (GCRA, see gcra.py), by this server's clock.
--
-- KEYS  1 ps:T:bucket:<name> or ps:{account}:bucket:<name>; where the question may be asked again
--       2 ps:T:asked:<consumer>.<what>
-- ARGV  1 permits wanted, negative: permits given back; 2 interval us; 3 span us that may come at once;
--       4 ramp us, or 0; 5 least share of the rate; 6 least permits that are of any use: fewer are not taken;
--       with KEYS[2] 7 number of the question; 8 whether it was asked before, 0 or 1
-- Returns { granted, us until the least are there where none was }

-- include: asked

local answered = known_answer(ARGV[7], ARGV[8])
if answered then
  return answered
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local wanted, interval, span = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ramp, least, useful = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local kept = redis.call('HMGET', KEYS[1], 'tat', 'at', 'share')
local tat, at = tonumber(kept[1] or 0), tonumber(kept[2] or 0)

local share = 1
if ramp > 0 then
  local passed = math.max(0, now - at)
  local busy = math.min(passed, math.max(0, tat - at))
  share = math.min(1, math.max(least, tonumber(kept[3] or least) + (2 * busy - passed) / ramp))
end
local cost = math.ceil(interval / share)
span = math.max(span, cost)
tat = math.min(math.max(tat, now), now + span)
local granted = math.min(wanted, math.floor((now + span - tat) / cost))
local wait = 0
if wanted < 0 then
  granted = wanted
elseif granted < useful then
  granted = 0
  wait = tat + useful * cost - span - now
end
redis.call(
  'HSET', KEYS[1],
  'tat', string.format('%.0f', tat + granted * cost), 'at', string.format('%.0f', now), 'share', string.format('%.17g', share)
)
-- Afterwards it is as if it had never been: full, and at the foot of its ramp.
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil((span + ramp) / 1000) + 1000))
keep_answer(ARGV[7], { granted, wait })
return { granted, wait }
