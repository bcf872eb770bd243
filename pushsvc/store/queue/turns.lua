-- Included by others: the records of turns of one push, in the hash `ps:T:t:<id>`. What a record says is in fence.lua.
--
-- The hash of a small push has a field for each delivery, named by its index. A field takes 50 bytes, and of a large
-- push many deliveries have the same record, so that of a large push one field, `#<n>`, has those of TURNS deliveries,
-- from index n * TURNS on. Its value is a byte with the version; a byte for each delivery, 0 where it has no record,
-- else the number of its record; then the records by their numbers, a line feed behind each. The number of a record that
-- no delivery has any more is given to another one. A field without any record is removed.

-- layout: TURNS

local TURNS_VERSION = 1
local SLICE = 1000 -- Lua cannot unpack more than about 7,000 values at once

-- Returns the functions that read and change the fields of a large push. They are made where they are needed, since each
-- step makes its functions again, and most pushes are small.
local function fields_of(key)
  local function records_of(blob)
    local records = {}
    for record in string.gmatch(string.sub(blob, TURNS + 2), '([^\n]*)\n') do
      records[#records + 1] = record
    end
    return records
  end

  -- The values of the fields with these numbers by their numbers, false where there is none.
  local function read_fields(numbers)
    local blobs = {}
    for first = 1, #numbers, SLICE do
      local fields = {}
      for at = first, math.min(first + SLICE - 1, #numbers) do
        fields[#fields + 1] = '#' .. numbers[at]
      end
      local found = redis.call('HMGET', key, unpack(fields))
      for at = 1, #found do
        blobs[numbers[first + at - 1]] = found[at]
      end
    end
    return blobs
  end

  -- Returns as `read_turns`.
  local function read(index)
    local numbers, records, known, found = {}, {}, {}, {}
    for p = 1, #index do
      local n = math.floor(index[p] / TURNS)
      if not records[n] then
        numbers[#numbers + 1], records[n] = n, true
      end
    end
    local blobs = read_fields(numbers)
    for n, blob in pairs(blobs) do
      if blob then
        if string.byte(blob) ~= TURNS_VERSION then
          return nil
        end
        local words = string.sub(blob, TURNS + 2)
        known[words] = known[words] or records_of(blob)
        records[n] = known[words]
      end
    end
    for p = 1, #index do
      local n = math.floor(index[p] / TURNS)
      local number = blobs[n] and string.byte(blobs[n], index[p] - n * TURNS + 2) or 0
      found[p] = number > 0 and records[n][number]
    end
    return found, blobs
  end

  -- Return a value with the numbers of `count` places replaced. `changes`: place -> number.
  local function with_numbers(blob, changes, count)
    if count > 8 then
      local all = { string.byte(blob, 1, TURNS + 1) }
      for place, number in pairs(changes) do
        all[place + 1] = number
      end
      return string.char(unpack(all)) .. string.sub(blob, TURNS + 2)
    end
    for place, number in pairs(changes) do
      blob = string.sub(blob, 1, place) .. string.char(number) .. string.sub(blob, place + 2)
    end
    return blob
  end

  local function has_number(blob, number)
    local at = string.find(blob, string.char(number), 2, true)
    return at and at <= TURNS + 1
  end

  -- Return a value with the records of `count` places replaced (place -> record, or false for none), or false where no
  -- record is left.
  local function with_records(blob, changes, count)
    local numbers, given, records, others, added = {}, {}, nil, nil, false
    for place, record in pairs(changes) do
      local number = 0
      if record then
        records, number = records or records_of(blob), 1
        while records[number] and records[number] ~= record do
          number = number + 1
        end
        if not records[number] then
          if not others then
            local gone = {}
            for at in pairs(changes) do
              gone[at] = 0
            end
            others = with_numbers(blob, gone, count)
          end
          number = 1
          while records[number] and (given[number] or has_number(others, number)) do
            number = number + 1
          end
          records[number], added = record, true
        end
        given[number] = true
      end
      numbers[place] = number
    end
    blob = with_numbers(blob, numbers, count)
    if added then
      blob = string.sub(blob, 1, TURNS + 1) .. table.concat(records, '\n') .. '\n'
    end
    local at = string.find(blob, '[^%z]', 2)
    return at and at <= TURNS + 1 and blob
  end

  -- Takes what `write_turns` takes. Returns the fields to remove, and field, value, .. to write.
  local function change(gone, set, blobs)
    local numbers, changes, counts, empty, written = {}, {}, {}, {}, {}
    local function note(i, record)
      local n = math.floor(i / TURNS)
      if not changes[n] then
        numbers[#numbers + 1], changes[n], counts[n] = n, {}, 0
      end
      changes[n][i - n * TURNS + 1], counts[n] = record, counts[n] + 1
    end
    for g = 1, #gone do
      note(gone[g], false)
    end
    for s = 1, #set, 2 do
      if type(set[s]) == 'number' then
        note(set[s], set[s + 1])
      else
        written[#written + 1], written[#written + 2] = set[s], set[s + 1]
      end
    end
    local none = string.char(TURNS_VERSION) .. string.rep('\0', TURNS)
    blobs = blobs or read_fields(numbers)
    for at = 1, #numbers do
      local n = numbers[at]
      local blob = with_records(blobs[n] or none, changes[n], counts[n])
      if blob then
        written[#written + 1], written[#written + 2] = '#' .. n, blob
      elseif blobs[n] then
        empty[#empty + 1] = '#' .. n
      end
    end
    return empty, written
  end

  return read, change
end

-- The records of these deliveries, false where there is none; nil where another version has written some of them. Of a
-- large push also what `write_turns` takes as `blobs`.
local function read_turns(key, large, index)
  if large or #index == 0 then
    local read = fields_of(key)
    return read(index)
  end
  return redis.call('HMGET', key, unpack(index))
end

-- Removes the records of `gone`, and writes those of `set`: index, record, .. In `set` other fields are written as they
-- are. `blobs` are the values of all of their fields where these were read in this step.
local function write_turns(key, large, gone, set, blobs)
  if large then
    local _, change = fields_of(key)
    gone, set = change(gone, set, blobs)
  end
  for first = 1, #gone, SLICE do
    redis.call('HDEL', key, unpack(gone, first, math.min(first + SLICE - 1, #gone)))
  end
  for first = 1, #set, SLICE do
    redis.call('HSET', key, unpack(set, first, math.min(first + SLICE - 1, #set)))
  end
end
