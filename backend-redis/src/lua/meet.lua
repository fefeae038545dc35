-- What becomes of a job whose dedup key is held: ferroq_core::policy::dedup::meet.
-- Where the payload's codec (1) stands in a spec, before its version (2) and bytes; nil if it can't be read.
local function payload_at(blob, parts)
  local at = parts.rest_at
  if at and has(byte(blob, 25), T.REST) then
    at = #blob >= at + 3 and at + 4 + unpack_bytes('>I4', blob, at)
  end
  return at and #blob >= at + 2 + parts.payload_len and at or nil
end

-- Gives a job that has not started the payload of another, whose spec is `other`; whether that can be done.
local function replace(j, other, parts)
  local blob, held = j.blob, job.parts(j)
  local len_at, at, from = 27 + (byte(blob, 26) or 0), payload_at(blob, held), payload_at(other, parts)
  if not at or not from then
    return false
  end
  -- The codec's highest bit says that an origin stands behind the payload.
  local codec = byte(other, from) % 128 + (byte(blob, at) >= 128 and 128 or 0)
  j.blob = sub(blob, 1, len_at - 1) .. pack('>I4', parts.payload_len) .. sub(blob, len_at + 4, at - 1) .. char(codec)
    .. sub(other, from + 1, from + 2 + parts.payload_len) .. sub(blob, at + 3 + held.payload_len)
  call('HSET', K.SPEC, j.id, j.blob)
  return true
end

-- One more enqueue for which a job stands; how many they are now.
local function count_one(j)
  local n = 1
  if job.has(j, FLAG_COALESCED) then
    n = unpack_bytes('>I4', j.worker)
    j.worker = sub(j.worker, 5)
  else
    j.flags = j.flags + FLAG_COALESCED
  end
  n = math.min(n + 1, 4294967295)
  j.worker = pack('>I4', n) .. j.worker
  return n
end

-- The answer to a job whose key has this entry: '\1' and the holder's id for nothing done, '\3' and the id of the job that
-- got the payload, '\4' and the holder's id and count; nil if the job is to be inserted behind the holder.
function job.meet(hold, parts, other)
  local id, mode = sub(hold, 1, 16), parts.dedup_mode
  local nothing = '\1' .. id
  if mode ~= M.DEBOUNCE and mode ~= M.KEEP_LATEST and mode ~= M.COALESCE then
    return nothing
  end
  local j = job.load(id)
  local held = j and not j.unreadable and job.parts(j)
  if not held or not held.rest_at or held.dedup_mode ~= mode or held.kind ~= parts.kind then
    return nothing
  end
  if mode == M.KEEP_LATEST then
    local pending = #hold >= 40 and job.load(sub(hold, 25, 40))
    if not pending and j.runs > 0 then
      return nil
    end
    return replace(pending or j, other, parts) and '\3' .. (pending or j).id or nothing
  elseif j.runs > 0 then
    return nothing
  end
  if mode == M.DEBOUNCE then
    if not replace(j, other, parts) then
      return nothing
    end
    job.leave(j)
    job.land(j, after(now, parts.dedup_span))
    hint_work = true
    event(E.RESCHEDULED, id)
    return '\3' .. id
  end
  local n = count_one(j)
  if n >= held.dedup_count and j.state == DELAYED then
    job.leave(j)
    job.land(j, now8)
    hint_work = true
    event(E.PROMOTED, id)
  else
    job.save(j)
  end
  return '\4' .. id .. pack('>I4', n)
end
