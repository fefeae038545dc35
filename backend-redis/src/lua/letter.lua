-- What a queue has for others, which may live on another node: it goes to the outbox, numbered, and is relayed from there.
-- Besides follow-ups these are dead letters (copies of jobs that failed for good) and jobs that are redriven.

-- Puts a job in the outbox; answers its number.
function job.send(destination, id, tail)
  -- One series for all queues, so that numbers rise through the outbox, and whoever reads it in parts meets no younger one
  -- for a queue before an older one. A number is not below storage time, so that a queue that was obliterated, or lost
  -- its last writes, gives none twice.
  local last = tonumber(call('HGET', K.LEDGER, 'o') or '0')
  local number_sent = math.max(last + 1, now)
  call('HSET', K.LEDGER, 'o', string.format('%.0f', number_sent))
  call('PERSIST', K.LEDGER)
  call('ZADD', K.OUTBOX, string.format('%.0f', number_sent),
    pack('>I8', number_sent) .. char(#destination) .. destination .. id .. tail)
  is_sent = true
  return pack('>I8', number_sent)
end

-- The id of the job that comes of this one now, as ferroq_core::policy::dead_letter derives it; `number` is that of a copy or
-- of a redriven job.
local function derived_id(j, number)
  local micros = math.max(now, 0)
  local bytes = { byte(pack('>I6', math.floor(micros / 1000)) .. sub(j.id, 7), 1, 16) }
  local mixed = pack('>I2', micros % 1000) .. number
  for i = 1, 10 do
    bytes[6 + i] = bit.bxor(bytes[6 + i], byte(mixed, i))
  end
  return char(unpack(bytes))
end

-- The job's spec from the priority on, without what belongs to one enqueue of it only, and with this origin, or the one
-- that it has; and that origin. Nil if the spec can't be read, or there is no origin.
local function tail_of(j, origin)
  local parts, blob = job.parts(j), j.blob
  local at = parts.rest_at
  if not at or #blob < at + 2 then
    return nil
  end
  local traits = byte(blob, 25)
  if has(traits, T.REST) then
    at = #blob < at + 3 and #blob + 1 or at + 4 + unpack_bytes('>I4', blob, at)
  end
  local payload_end = at + 2 + parts.payload_len
  if #blob < payload_end then
    return nil
  end
  -- The codec's highest bit says that an origin stands behind the payload.
  local codec = byte(blob, at)
  if codec >= 128 then
    codec = codec - 128
    origin = origin or sub(blob, payload_end + 1)
  end
  if not origin then
    return nil
  end
  local kept, list = 0, { '', '', char(#parts.kind), parts.kind, pack('>I4', parts.payload_len) }
  local function keep(trait, bytes)
    if has(traits, trait) then
      kept = kept + trait
      list[#list + 1] = bytes()
    end
  end
  keep(T.BUDGETS, function() return pack('>I4I4', parts.max_attempts, parts.max_crashes) end)
  keep(T.KEEP, function() return parts.keep[COMPLETED] .. parts.keep[FAILED] .. parts.keep[CANCELLED] end)
  keep(T.LANE, function() return char(#parts.lane) .. parts.lane end)
  keep(T.TAGS, function()
    local tags = { pack('>I2', #parts.tags) }
    for i = 1, #parts.tags do
      tags[i + 1] = char(#parts.tags[i]) .. parts.tags[i]
    end
    return concat(tags)
  end)
  keep(T.REST, function() return sub(blob, parts.rest_at, at - 1) end)
  list[1], list[2] = char(j.priority), char(kept)
  local n = #list
  list[n + 1], list[n + 2], list[n + 3] = char(codec + 128), sub(blob, at + 1, payload_end), origin
  return concat(list), origin
end

local function home()
  return string.match(K.META, '^ferroq:{[^:]*:(.*)}:meta$')
end

-- Sends the copy of a job that is Failed now to the dead-letter queue. What can't be read can't be carried.
function job.copy(j, failure)
  local queue = home()
  local errors = has(j.mask, N.ERRORS) and call('HGET', K.NOTES, j.id .. 'e') or ''
  local tail = tail_of(j, char(#queue) .. queue .. j.id .. char(failure) .. now8 .. pack('>I4I4', j.attempts, j.crashes)
    .. errors)
  if tail and #j.id == 16 then
    job.send(meta.dead_letter, derived_id(j, next_epoch(j.epoch, 0)), tail)
  end
end

-- Sends a dead letter back to where it comes from; whether it is one, and from elsewhere.
function job.send_home(j)
  local tail, origin = tail_of(j, nil)
  local queue = origin and sub(origin, 2, 1 + (byte(origin, 1) or 0))
  if not queue or queue == '' or queue == home() then
    return false
  end
  job.send(queue, derived_id(j, next_epoch(next_epoch(j.epoch, 0), 0)), tail)
  return true
end
