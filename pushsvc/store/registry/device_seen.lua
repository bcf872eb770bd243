-- Included by others, after `document`: a sign of life of a device moves `last_seen_at` in its document.
--
-- Of the form of a document, which documents.py describes, only this is known here: id, platform, token, registered at,
-- last seen so long after that, user, seven others, and last of all the fate, of which the first decides whether it is
-- a tombstone. `cmsgpack` reads no bytes, as which ids, tokens and users may stand.

-- layout: BLOCK SEEN_EVERY

local HEADER = '\2\158' -- version, and an array of 14

-- The place behind a text, bytes, a small number or nothing.
local function past(document, at)
  local head, size, more = string.byte(document, at + 1, at + 3)
  if head >= 0xa0 and head <= 0xbf then
    return at + 1 + head - 0xa0
  elseif head == 0xc4 or head == 0xd9 then
    return at + 2 + size
  elseif head == 0xc5 or head == 0xda then
    return at + 3 + size * 256 + more
  end
  return at + 1
end

-- Reasons for a tombstone that a sign of life refutes; see rules/life.py.
local SILENT = { stale = true, suspect = true }

-- Returns the document of a device that was seen at `now`, or nothing where it was seen within SEEN_EVERY, and since it
-- became a tombstone; and whether it is a tombstone because it was silent.
local function seen_at(document, now)
  local at, registered = cmsgpack.unpack_one(document, past(document, past(document, past(document, #HEADER))))
  local stop, after = cmsgpack.unpack_one(document, at)
  local fate = select(9, cmsgpack.unpack_limit(document, 8, past(document, stop)))
  local tombstone = fate and fate[1]
  if now - registered - after < SEEN_EVERY and not (tombstone and registered + after <= fate[2]) then
    return nil, tombstone and SILENT[fate[3]]
  end
  local seen = string.sub(document, 1, at) .. cmsgpack.pack(now - registered) .. string.sub(document, stop + 1)
  return seen, tombstone and SILENT[fate[3]]
end

-- Notes that device n lives at `now`, at most once in SEEN_EVERY. Returns 1, and changes nothing, where it is a
-- tombstone because it was silent; else 0. A document that this version cannot read stays what it is.
local function note_life(prefix, n, now)
  local document = document_of(prefix, n)
  if string.sub(document, 1, #HEADER) ~= HEADER then
    return 0
  end
  local whole, seen, silent = pcall(seen_at, document, now)
  if whole and seen and not silent then
    redis.call('LSET', string.format('%sd:%d', prefix, math.floor(n / BLOCK)), 1 + n % BLOCK, seen)
  end
  return whole and silent and 1 or 0
end
