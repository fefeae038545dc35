-- How long the jobs of a lane have waited, as its gate takes it, and as docs/contract.md has it under "Batches".

-- At how many jobs of a line, from its head on, a gate looks for the one that came due first.
local GATE_LOOKS_MAX = 1000

-- What gates know of a clock that stepped back: up to which seq jobs were there, whence it stepped, and where to; false if it
-- never did.
local set_back
function lanes.set_back()
  if set_back == nil then
    local known = call('HGET', K.META, 'set_back')
    set_back = known and { unpack_bytes('>I7i8i8', known) } or false
  end
  return set_back
end

-- What gates know of a clock that stepped back once it does so from an instant to the present.
function lanes.set_back_from(from)
  local known = call('HGET', K.META, 'set_back')
  if not known then
    return meta.seq, from, now
  end
  local seq, latest, to = unpack_bytes('>I7i8i8', known)
  return math.max(seq, meta.seq), math.max(latest, from), math.min(to, now)
end

function lanes.note_set_back(from)
  call('HSET', K.META, 'set_back', pack('>I7i8i8', lanes.set_back_from(from)))
end

-- When the job with a seq came due, as its gate takes it. Of those that were there when the clock stepped back none did
-- later than that.
function lanes.came_due(seq, due, known)
  if known and math.abs(unpack_bytes('>I7', seq) - SEQ_BIAS) <= known[1] and known[3] < due and due <= known[2] then
    return known[3]
  end
  return due
end

-- When the first of those jobs of a lane's line came due at which its gate looks. Jobs without an entry in `run` came due as
-- they were put, one after another (restore.lua sees to it), so that only the spec of the first of them has to be read.
function lanes.first_due(lane, known)
  local low = lane * 256
  local members, ids = call('ZRANGEBYSCORE', K.LINE, low, low + 255, 'LIMIT', 0, GATE_LOOKS_MAX), {}
  for i = 1, #members do
    ids[i] = sub(members[i], 8)
  end
  local entries, least, oldest, first = get_many(K.RUN, ids), math.huge, nil, nil
  for i = 1, #ids do
    local entry = entries[i]
    if not entry then
      local size = math.abs(unpack_bytes('>I7', members[i]) - SEQ_BIAS)
      if size < least then
        least, oldest = size, i
      end
    elseif is_entry(entry) then
      local due = lanes.came_due(members[i], number(sub(entry, 17, 24)), known)
      first = math.min(first or due, due)
    end
  end
  local created = oldest and sub(call('HGET', K.SPEC, ids[oldest]) or '', 8, 15) or ''
  if #created == 8 then
    local due = lanes.came_due(members[oldest], number(created), known)
    first = math.min(first or due, due)
  end
  return first or now
end
