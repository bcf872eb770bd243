-- Accepts the pushes of many calls: each becomes a status hash and its entries in the lanes, completely or not at all.
--
-- A push whose id is known already does not change, so that the caller may repeat the call after a lost answer. When
-- memory is full the first write is refused before anything else is written. Keys other than KEYS[1] are built from the
-- prefix: they share its hash tag, and naming four of them a push would cost more than writing them.
--
-- A call with an idempotency key is accepted with its record, or the record of an earlier call is found: no crash and no
-- other process can come between record and pushes. Where the answer to this very call was lost and the call is repeated,
-- its first push exists already, and the call is not treated as a repeat of another. One without pushes only asks.
--
-- A push to one target that is to be sent at once is single. It costs the server least: those of a lane share entries. If
-- it is also short (`settling.is_short`), its status has a lifetime from here on, and nothing has to be set at its end. Any
-- other status has none while deliveries of its push are open: the step that ends the last of them sets it. The chunks of a
-- scheduled push wait beside the lanes until launch.lua moves them there; until then its deliveries are counted as
-- `scheduled`. An encoded push has an audience: it has no chunks yet, and expand.lua continues from here when it is due.
--
-- KEYS  1 ps:T:pending
-- ARGV  1 prefix `ps:T:`; 2 status TTL in ms; 3 TTL of a record in ms; 4 number of calls with a key; then for each of them
--       the digest of the key, record, id of its first push or '', and number of arguments of its pushes; then the pushes,
--       those of calls with a key first:
--       single  `<platform>:<lane>`, ms from its acceptance to its expiry, ms for which its status stays or 0, id, created
--               at ms, place in the list of pushes (listing.py), '' or the id of its trace, blob
--       others  '', id, total, created at ms, due ms or 0 for at once, '' or `<lane> <size of the note> <note><encoded
--               push>` with what its status notes of its audience (named.py), '' or MessagePack of the content that its
--               entries name (lifetime in ms, then name and encoded message of each variant), place in the list of pushes,
--               '' or the id of its trace, ms for which its status stays or 0, number of chunks, and for each chunk:
--               platform, lane, number of targets, blob
-- Returns the pending counters of the shard, flat: field, value, ..; then for each call with a key the earlier record, or
-- false where this call was accepted.

-- layout: LISTED LISTED_ENTRIES TOGETHER

local SINGLE, OTHER, CHUNK = 8, 11, 4 -- arguments
local NAMES = 1000 -- keys of one command

local prefix, ttl, record_ttl, calls = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local places, names, fresh = {}, {}, {} -- of pushes to write: where they begin, keys of the single ones, some new ids
local added, listed = {}, {} -- how many deliveries by lane; places in the list of pushes
local waiting = {} -- by lane the single pushes that are to share an entry

-- Appends the pushes of a step to the list of pushes. Each call of the server counts here: about one write in a hundred,
-- by the instant of its entry, cuts off what is too old or too much, and cleanup does so where nothing is written.
local function list_pushes(key)
  local id
  for first = 1, #listed, LISTED do
    id = redis.call('XADD', key, '*', 'p', table.concat(listed, '', first, math.min(first + LISTED - 1, #listed)))
  end
  if id and string.find(id, '00-', 11, true) then
    local oldest = string.match(id, '^%d+') - ttl
    redis.call('XTRIM', key, 'MINID', '~', string.format('%.0f', math.max(0, oldest)))
    redis.call('XTRIM', key, 'MAXLEN', '~', LISTED_ENTRIES)
  end
end

-- Notes of a scheduled push when it is due, and the API key, with which its place in the list of pushes ends.
local function note_schedule(push, due, place)
  redis.call('HSET', push, 'due', due, 'k', string.sub(place, 8 + string.byte(place, 7)))
end

local function note_trace(push, trace)
  if trace ~= '' then
    redis.call('HSET', push, 'tr', trace)
  end
end

-- Puts the single pushes that wait for it into a lane: see `decode_entry` in model/codec.py.
local function add_singles(lane)
  local blobs = waiting[lane]
  if #blobs == 1 then
    redis.call('XADD', prefix .. 'q:' .. lane, '*', 'c', blobs[1]) -- read with fewer strings
  elseif #blobs > 1 then
    local parts = { '\3' }
    for b = 1, #blobs do
      parts[2 * b], parts[2 * b + 1] = struct.pack('>I4', #blobs[b]), blobs[b]
    end
    redis.call('XADD', prefix .. 'q:' .. lane, '*', 'c', table.concat(parts), 'n', #blobs)
  end
  waiting[lane] = nil
end

local function write_single(push, at)
  local lane, span, life, _, created, place, trace, blob = unpack(ARGV, at, at + SINGLE - 1)
  redis.call('HSET', push, 'n', '1', 'st', 'sending', 'at', created)
  note_trace(push, trace)
  if life ~= '0' then
    redis.call('PEXPIRE', push, life)
  end
  local blobs = waiting[lane]
  if blobs and (blobs.span ~= span or #blobs == TOGETHER) then -- with one span they expire at the same time
    add_singles(lane)
    blobs = nil
  end
  if not blobs then
    blobs = { span = span }
    waiting[lane] = blobs
  end
  blobs[#blobs + 1] = blob
  added[lane] = (added[lane] or 0) + 1
  listed[#listed + 1] = place
end

local function write_other(push, at)
  local id, total, created, due, whole, content, place, trace, life, chunks = unpack(ARGV, at + 1, at + OTHER - 1)
  local later = due ~= '0' and total ~= '0'
  if whole ~= '' then
    local record = prefix .. 'x:' .. id
    local state = due == '0' and 'expanding' or 'scheduled'
    local lane, size, start = string.match(whole, '^(%a+) (%d+) ()')
    local behind = start + size
    redis.call('HSET', push, 'n', 0, 'st', state, 'at', created, 'x', string.sub(whole, start, behind - 1))
    redis.call('HSET', record, 'push', string.sub(whole, behind), 'step', 0, 'cursor', '')
    redis.call('ZADD', prefix .. 'expansions:' .. lane, due == '0' and created or due, id)
    if due ~= '0' then
      note_schedule(push, due, place)
    end
  else
    local state = total == '0' and 'done' or later and 'scheduled' or 'sending'
    redis.call('HSET', push, 'n', total, 'st', state, 'at', created)
    if total == '0' then
      redis.call('PEXPIRE', push, ttl)
    end
  end
  if life ~= '0' then
    redis.call('PEXPIRE', push, life)
  end
  note_trace(push, trace)
  if later then
    note_schedule(push, due, place)
    redis.call('ZADD', prefix .. 'scheduled', due, id)
    local lane = ARGV[at + OTHER + 1] -- the lane of the first chunk is that of the push
    if lane ~= 'bulk' then
      redis.call('ZADD', prefix .. lane, due, id)
    end
    added.scheduled = (added.scheduled or 0) + total
  end
  if content ~= '' then
    local parts = cmsgpack.unpack(content)
    redis.call('HSET', prefix .. 'v:' .. id, unpack(parts, 2))
    redis.call('PEXPIRE', prefix .. 'v:' .. id, string.format('%.0f', parts[1]))
  end
  for chunk = at + OTHER, at + OTHER + CHUNK * (chunks - 1), CHUNK do
    local platform, name, count, blob = unpack(ARGV, chunk, chunk + CHUNK - 1)
    if later then
      redis.call('RPUSH', prefix .. 's:' .. id, platform, name, count, blob)
    else
      local lane = platform .. ':' .. name
      if waiting[lane] then
        add_singles(lane)
      end
      redis.call('XADD', prefix .. 'q:' .. lane, '*', 'c', blob, 'n', count)
      added[lane] = (added[lane] or 0) + count
    end
  end
  listed[#listed + 1] = place
end

-- Marks the pushes whose arguments stand from ARGV[at] to before ARGV[to] as to be written.
local function note(at, to)
  while at < to do
    places[#places + 1] = at
    if ARGV[at] ~= '' then
      names[#names + 1] = prefix .. 'p:' .. ARGV[at + 3]
      at = at + SINGLE
    else
      at = at + OTHER + CHUNK * ARGV[at + OTHER - 1]
    end
  end
end

local answer, at = { false }, 5 + 4 * calls
for call = 1, calls do
  local digest, record, first, size = unpack(ARGV, 1 + 4 * call, 4 + 4 * call)
  local kept = redis.call('GET', prefix .. 'i:' .. digest)
  if first ~= '' then
    if not kept then
      redis.call('SET', prefix .. 'i:' .. digest, record, 'PX', record_ttl)
      note(at, at + size)
      fresh[first] = true
    elseif fresh[first] or redis.call('EXISTS', prefix .. 'p:' .. first) == 1 then
      kept = false
    end
  end
  answer[1 + call], at = kept, at + size
end
note(at, #ARGV + 1)

local known, seen = 0, {}
for first = 1, #names, NAMES do
  known = known + redis.call('EXISTS', unpack(names, first, math.min(first + NAMES - 1, #names)))
end
for p = 1, #places do
  local place = places[p]
  local single = ARGV[place] ~= ''
  local push = prefix .. 'p:' .. ARGV[place + (single and 3 or 1)]
  if not seen[push] and (single and known == 0 or redis.call('EXISTS', push) == 0) then
    seen[push] = true
    if single then
      write_single(push, place)
    else
      write_other(push, place)
    end
  end
end
for lane in pairs(waiting) do
  add_singles(lane)
end
for field, count in pairs(added) do
  redis.call('HINCRBY', KEYS[1], field, count)
end
list_pushes(prefix .. 'recent')
answer[1] = redis.call('HGETALL', KEYS[1])
return answer
