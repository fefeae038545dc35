-- A job as a table, for all that is not the hot path: read from its two entries, moved between lines, written back.
--
-- The entry in `spec` never changes but for a payload that is replaced before the job starts: seq (7 bytes, biased so that it sorts), created_at (8), expires_at as enqueued (8),
-- priority (1), traits (1), kind (1 + n), payload length (4), the parts that the traits name, payload.
-- The entry in `run` is there from the first claim on, or from the first change: state (1), epoch (8), seq (7), due_at (8),
-- expires_at (8), priority (1), traits (1), slot (1), flags (1), mask of notes (1), failure (1), attempts (4), crashes (4),
-- runs (4), started_at (8), lease_until or finished_at (8), lease_term or prune_at (8), for how many enqueues it stands (4,
-- only under the flag for it), the number of its batch (6, only under the flag for it), worker (the rest).
-- A job without an entry in `run` is Waiting in its lane, with priority and times as in `spec`, and was never claimed.
-- The parts of a spec that its traits name; nil if not even the key can be read.
function job.parts_of(blob)
  if #blob < HEAD_MIN then
    return nil
  end
  local traits, at = byte(blob, 25), 27 + byte(blob, 26)
  local parts = { kind = sub(blob, 27, at - 1), max_attempts = 20, max_crashes = 3, lane = '', tags = {} }
  if #blob < at + 3 then
    return nil
  end
  parts.payload_len = unpack_bytes('>I4', blob, at)
  at = at + 4
  local function take(n)
    local from = at
    at = at + n
    return sub(blob, from, at - 1)
  end
  if has(traits, T.DEDUP) then
    parts.dedup_mode = byte(take(1)) or 0
    parts.dedup_span = take(8)
    parts.dedup_key = take(byte(take(1)) or 0)
  end
  local key_end = at
  if parts.dedup_mode == M.COALESCE then
    local count = take(4)
    parts.dedup_count = #count == 4 and unpack_bytes('>I4', count) or 0
  end
  if has(traits, T.BUDGETS) and #blob >= at + 7 then
    parts.max_attempts, parts.max_crashes = unpack_bytes('>I4I4', take(8))
  end
  if has(traits, T.EXPIRES) then
    parts.expires_in = take(8)
  end
  if has(traits, T.KEEP) then
    parts.keep = { [COMPLETED] = take(9), [FAILED] = take(9), [CANCELLED] = take(9) }
  end
  if has(traits, T.LANE) then
    parts.lane = take(byte(take(1)) or 0)
  end
  if has(traits, T.TAGS) then
    local high, low = byte(take(2), 1, 2)
    for i = 1, (high or 0) * 256 + (low or 0) do
      if at > #blob then
        break
      end
      parts.tags[i] = take(byte(take(1)) or 0)
    end
  end
  if has(traits, T.PLACE) then
    parts.lifo = byte(take(1)) == 1
    parts.start = byte(take(1)) or 0
    parts.start_at = take(8)
  end
  if at <= #blob + 1 then
    parts.rest_at = at
    return parts
  elseif key_end > #blob + 1 then
    return nil
  end
  -- What comes behind the key is damaged. The key can be given back all the same.
  return { kind = parts.kind, payload_len = parts.payload_len, max_attempts = 20, max_crashes = 3, lane = '', tags = {},
    dedup_mode = parts.dedup_mode, dedup_span = parts.dedup_span, dedup_key = parts.dedup_key, dedup_count = parts.dedup_count }
end

-- The instant that a start names: at once (0), after a span (1), or at an instant (2).
function job.due_of(start, at)
  if start == 1 then
    return after(now, at)
  elseif start == 2 and number(at) > now then
    return at
  end
  return now8
end

-- Puts a job that left its line where `due` says.
function job.land(j, due)
  j.due = due
  if number(due) > now then
    j.state, j.slot = DELAYED, LANE
  else
    job.wait(j)
  end
  job.stand(j)
end

-- The job's parts; of one that can't be read, those of an ordinary job.
function job.parts(j)
  if not j.parts_read then
    j.parts_read = job.parts_of(j.blob) or { kind = '', max_attempts = 20, max_crashes = 3, lane = '', tags = {} }
  end
  return j.parts_read
end

local function shelf_number(kind)
  local number_given = call('HGET', K.KINDS, kind)
  if number_given then
    return tonumber(number_given)
  end
  local next = call('HLEN', K.KINDS) + 1
  call('HSET', K.KINDS, kind, next)
  return next
end

-- The lane that a job is in; '' for the default one.
function job.lane(j)
  return has(j.traits, T.LANE) and job.parts(j).lane or ''
end

-- The set that a job stands in, and, if it `stands` there from now on, its score; 'later' if it is written with others.
function job.line(j, stands)
  if j.state == WAITING then
    if j.slot == LANE then
      return K.LINE, stands and lanes.score(job.lane(j), j.priority, j, stands == 'later')
    elseif j.slot == SOLO then
      return K.SOLO_LINE, j.priority
    end
    return K.SHELVES, shelf_number(job.parts(j).kind) * 256 + j.priority
  elseif j.state == DELAYED then
    return K.DELAYED_SET, number(j.due)
  elseif j.state == BLOCKED then
    return K.BLOCKED_SET, j.batch or 0
  elseif j.state == ACTIVE then
    return K.ACTIVE_SET, number(j.till)
  elseif j.term == NONE8 then
    return set_of(j.state), number(MAX8)
  end
  return set_of(j.state), number(j.term)
end

-- Which notes a job has, where its entry can't tell.
local function notes_there(id)
  local found, mask = call('HMGET', K.NOTES, id .. 'e', id .. 'p', id .. 'c', id .. 'r', id .. 'l'), 0
  for i = 1, 5 do
    mask = mask + (found[i] and 2 ^ (i - 1) or 0)
  end
  return mask
end

-- A job from its entries, and from the member under which it stands in its line, if that is known: a seq that differs is
-- damaged, and where the job stands is what counts.
function job.of(id, blob, entry, member)
  local j = { id = id, blob = blob }
  if entry and is_entry(entry) then
    j.state, j.epoch, j.seq, j.due, j.expires, j.priority, j.traits, j.slot, j.flags, j.mask, j.failure, j.attempts,
      j.crashes, j.runs, j.started, j.till, j.term = unpack_bytes('>Bc8c7c8c8BBBBBBI4I4I4c8c8c8', entry)
    j.worker = sub(entry, 75)
    j.noted = true
    if has(j.flags, FLAG_BATCH) then
      local at = head_len(j.flags) - 5
      j.flags = j.flags - FLAG_BATCH
      if #entry < at + 5 then
        j.unreadable = true
      else
        j.batch, j.worker = unpack_bytes('>I6', entry, at), sub(entry, 75, at - 1) .. sub(entry, at + 6)
      end
    end
  else
    if #blob < HEAD_MIN then
      blob = blob .. string.rep('\0', HEAD_MIN)
    end
    j.noted = entry and true or false
    j.state, j.epoch, j.seq, j.due, j.expires = WAITING, NONE8, sub(blob, 1, 7), sub(blob, 8, 15), sub(blob, 16, 23)
    j.priority, j.traits, j.slot, j.flags, j.mask, j.failure = byte(blob, 24), byte(blob, 25), LANE, 0, 0, 0
    j.attempts, j.crashes, j.runs, j.started, j.till, j.term, j.worker = 0, 0, 0, NONE8, NONE8, NONE8, ''
    if entry then
      j.unreadable, j.mask = true, notes_there(id)
    end
  end
  if member and sub(member, 1, 7) ~= j.seq then
    j.unreadable, j.seq = true, sub(member, 1, 7)
  end
  j.member = j.seq .. id
  return j
end

function job.load(id, member)
  local blob = call('HGET', K.SPEC, id)
  if not blob then
    return nil
  end
  return job.of(id, blob, call('HGET', K.RUN, id), member)
end

function job.entry(j)
  local flags, rest = j.flags, j.worker
  if j.batch then
    local at = head_len(flags) - 74
    flags, rest = flags + FLAG_BATCH, sub(rest, 1, at) .. pack('>I6', j.batch) .. sub(rest, at + 1)
  end
  return pack('>Bc8c7c8c8BBBBBBI4I4I4c8c8c8', j.state, j.epoch, j.seq, j.due, j.expires, j.priority, j.traits, j.slot,
    flags, j.mask, j.failure, j.attempts, j.crashes, j.runs, j.started, j.till, j.term) .. rest
end

-- Takes a job out of its line. What changes its place comes after, and then `stand`. A job that does not stand where its
-- entry says is looked for everywhere, under its seq and under the one that its spec has.
function job.leave(j)
  local line = job.line(j)
  if call('ZREM', line, j.member) == 1 then
    j.was_in_line = line == K.LINE
    if j.was_in_line and is_laned() then
      lanes.left(job.lane(j))
    end
    return
  end
  local other = sub(j.blob, 1, 7)
  local lines = { K.LINE, K.SOLO_LINE, K.SHELVES, K.DELAYED_SET, K.BLOCKED_SET, K.ACTIVE_SET, K.COMPLETED_SET,
    K.FAILED_SET, K.CANCELLED_SET }
  for i = 1, #lines do
    call('ZREM', lines[i], j.member)
    if #other == 7 and other ~= j.seq and call('ZREM', lines[i], other .. j.id) == 1 then
      j.seq, j.member = other, other .. j.id
    end
  end
end

-- Puts a job in the line where it belongs now, and writes its entry.
function job.stand(j)
  moved = true
  local line, score = job.line(j, true)
  call('ZADD', line, score, j.member)
  call('HSET', K.RUN, j.id, job.entry(j))
end

-- Writes a job's entry where its place did not change.
function job.save(j)
  call('HSET', K.RUN, j.id, job.entry(j))
end

-- Makes a job wait in the line where its crashes put it.
function job.wait(j)
  j.state = WAITING
  j.slot = (j.crashes + 1 >= job.parts(j).max_crashes) and SOLO or LANE
end

function job.has(j, flag)
  return has(j.flags, flag)
end

-- Notes. An error entry is at (8), run (4), kind (1), length (2), text; a log line is at (8), run (4), length (2), text.
function job.note_fields(id, mask)
  local fields = {}
  if has(mask, N.ERRORS) then fields[#fields + 1] = id .. 'e' end
  if has(mask, N.PROGRESS) then fields[#fields + 1] = id .. 'p' end
  if has(mask, N.CHECKPOINT) then fields[#fields + 1] = id .. 'c' end
  if has(mask, N.RESULT) then fields[#fields + 1] = id .. 'r' end
  if has(mask, N.LOG) then fields[#fields + 1] = id .. 'l' end
  return fields
end

function job.put_note(j, bit, letter, value)
  call('HSET', K.NOTES, j.id .. letter, value)
  if not has(j.mask, bit) then
    j.mask = j.mask + bit
  end
end

function job.drop_note(j, bit, letter)
  if has(j.mask, bit) then
    call('HDEL', K.NOTES, j.id .. letter)
    j.mask = j.mask - bit
  end
end

-- Adds entries to a list of notes, dropping the oldest beyond `max`. `head` is how many bytes come before the length.
function job.append_notes(j, bit, letter, more, max, head)
  local text = more
  if has(j.mask, bit) then
    text = (call('HGET', K.NOTES, j.id .. letter) or '') .. more
  end
  local starts, at = {}, 1
  while at + head + 1 <= #text do
    starts[#starts + 1] = at
    at = at + head + 2 + unpack_bytes('>I2', text, at + head)
  end
  if #starts > max then
    text = sub(text, starts[#starts - max + 1])
  end
  job.put_note(j, bit, letter, text)
end

function job.push_error(j, kind, message)
  job.append_notes(j, N.ERRORS, 'e', now8 .. pack('>I4BI2', j.runs, kind, #message) .. message, 5, 13)
end
