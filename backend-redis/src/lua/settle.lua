-- Settlement: the end of a run, under the lease that the run was handed out with. The verdicts repeat
-- ferroq_core::policy::settle. A settlement is id (16), epoch (8), outcome (1) and what the outcome carries.

-- Answers: '\0' and the state, or one of these.
local A_DONE, A_LOST, A_GONE = '\1', '\2', '\3'

-- The settlements of one call. Those that complete a plain job are collected and written together.
local done_ids, done_members, done_runs, done_scores, done_count = {}, {}, {}, {}, 0
local done_times, done_score, is_done_kept = nil, nil, nil

local function flush_done()
  if done_count == 0 then
    return
  end
  if many('ZREM', K.ACTIVE_SET, done_members, 1) < done_count then
    job.find_done()
  end
  -- Before their specs go, which say what lanes they were in.
  local in_lanes = is_laned() and lanes.wait_for_ends() and job.lanes_of_done()
  hint_work = hint_work or is_laned()
  if is_done_kept then
    many('HSET', K.RUN, done_runs, 2)
    many('ZADD', K.COMPLETED_SET, done_scores, 2)
    added[COMPLETED] = added[COMPLETED] + done_count
  else
    many('HDEL', K.SPEC, done_ids, 1)
    many('HDEL', K.RUN, done_ids, 1)
  end
  done_ids, done_members, done_runs, done_scores, done_count = {}, {}, {}, {}, 0
  for i = 1, in_lanes and #in_lanes or 0 do
    lanes.released(in_lanes[i])
  end
end

-- How plain completed jobs end at this turn: kept until an instant, or removed.
local function done_rule()
  local rule = keep_of(COMPLETED)
  local age = rule.count == 0 and NONE8 or span_of(rule.age)
  is_done_kept = age ~= NONE8
  if is_done_kept then
    local prune = after(now, age)
    done_times, done_score = now8 .. prune, string.format('%.0f', number(prune))
  end
end

-- Settles one run of the job `id`. `entry` is the job's entry in `run`, or false. Answers the answer, and the entry
-- afterwards.
local function settle(settlement, id, entry)
  local epoch = sub(settlement, 17, 24)
  if not entry then
    flush_done()
    if call('HEXISTS', K.SPEC, id) == 0 then
      return A_GONE, false
    end
    return epoch == NONE8 and A_DONE or A_LOST, false
  end
  local j
  -- Under an entry that can't be read nobody holds a lease; the sweep fails its job.
  if sub(entry, 2, 9) ~= epoch or byte(entry, 1) ~= ACTIVE or not is_entry(entry) then
    local is_member = byte(entry, 1) == BLOCKED and is_entry(entry) and has(byte(entry, 36), FLAG_BATCH)
    if is_member then
      flush_done()
      j = batches.come_out(id, epoch)
      -- Meanwhile it may have come to lead.
      entry = j and entry or call('HGET', K.RUN, id) or entry
      is_member = byte(entry, 1) == BLOCKED
    end
    if not j then
      return (is_member or sub(entry, 2, 9) ~= epoch or not is_entry(entry)) and A_LOST or A_DONE, entry
    end
  end
  -- Completed without a result; no key, no rule of its own for its record; no mark, no notes.
  local traits, slot, flags, mask = byte(entry, 34, 37)
  if #settlement == 25 and byte(settlement, 25) == O.COMPLETED and traits % 4 == 0 and slot == LANE and flags == 0 and mask == 0 then
    if is_done_kept == nil then
      done_rule()
    end
    event(E.COMPLETED, id)
    done_count = done_count + 1
    local member = sub(entry, 10, 16) .. id
    done_members[done_count] = member
    if is_done_kept then
      entry = '\4' .. sub(entry, 2, 58) .. done_times .. sub(entry, 75)
      local n = done_count * 2
      done_runs[n - 1], done_runs[n] = id, entry
      done_scores[n - 1], done_scores[n] = done_score, member
      return '\0\4', entry
    end
    done_ids[done_count] = id
    return '\0\4', false
  end
  flush_done()
  j = j or job.load(id)
  if not j then
    return A_GONE, false
  end
  local state = job.apply_outcome(j, settlement)
  if #heirs > 0 then
    job.place_heirs()
  end
  return '\0' .. char(state), call('HGET', K.RUN, id)
end
