-- The requests of `wrk`: each has the body of a file, with a fresh token in place of every "@@".
--
-- Arguments after the URL: the file, eight hexadecimal digits that no other run has, and the milliseconds that a
-- connection waits before each of its requests (0: none).

local head, body, seed
local made, pause = 0, 0

local function token()
  made = made + 1
  return string.format("%s%056x", seed, made)
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  body, seed, pause = file:read("*a"), args[2], tonumber(args[3])
  file:close()
  -- A token has 64 digits, so that all bodies are of one length and share their head.
  local sample = body:gsub("@@", token)
  head = wrk.format("POST", nil, nil, sample):match("^.-\r\n\r\n")
  if pause > 0 then
    math.randomseed(tonumber(seed, 16))
    -- Half as long to half again, so that the connections do not fall into step.
    delay = function() return math.floor(pause * (0.5 + math.random()) + 0.5) end
  end
end

function request()
  return head .. body:gsub("@@", token)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"tool": "wrk", "requests": %d, "seconds": %f, "bad": %d, "p50": %f, "p99": %f}\n',
    summary.requests, summary.duration / 1e6, errors.status + errors.connect + errors.read + errors.write +
    errors.timeout, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
