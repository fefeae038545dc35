-- Settlement: the end of a run, under the lease that the run was handed out with. The verdicts repeat
-- ferroq_core::policy::settle. A settlement is id (16), epoch (8), outcome (1) and what the outcome carries.
local O = { COMPLETED = 0, RESULT = 1, RETRY = 2, ABORT = 3, SNOOZE = 4, RELEASE = 5, CANCELLED = 6 }

-- Answers: '\0' and the state, or one of these.
local A_DONE, A_LOST, A_GONE = '\1', '\2', '\3'

-- The settlements of one call. Those that complete a plain job are collected and written together.
local done_ids, done_members, done_runs, done_scores, done_count = {}, {}, {}, {}, 0
local done_times, done_score, is_done_kept = nil, nil, nil

parts_to_open[#parts_to_open + 1] = function()
  -- Writes down that an Active job is no longer Active: it ended, or is back in line.
  local function settle_end(j, state, failure, kind)
    event(kind, j.id)
    job.finish(j, state, failure)
    return state
  end

  local function settle_back(j, due, kind)
    if kind then
      event(kind, j.id)
    end
    hint_work = true
    if j.batch then
      j.batch = batches.step_back(j)
    end
    j.due = due or j.due
    if due and number(due) > now then
      j.state, j.slot = DELAYED, LANE
    else
      job.wait(j)
    end
    j.till, j.term = NONE8, NONE8
    job.stand(j)
    return j.state
  end

  -- Applies an outcome to an Active job; the state that it leads to.
  local function end_run(j, settlement)
    local outcome = byte(settlement, 25)
    local parts = job.parts(j)
    job.leave(j)
    if outcome == O.RETRY or outcome == O.ABORT then
      local head = outcome == O.RETRY and 34 or 26
      j.attempts = math.min(j.attempts + 1, 4294967295)
      job.push_error(j, byte(settlement, head), sub(settlement, head + 1))
    end
    if outcome == O.COMPLETED or outcome == O.RESULT then
      if outcome == O.RESULT then
        job.put_note(j, N.RESULT, 'r', sub(settlement, 26))
      else
        job.drop_note(j, N.RESULT, 'r')
      end
      return settle_end(j, COMPLETED, 0, E.COMPLETED)
    elseif outcome == O.CANCELLED or job.has(j, FLAG_CANCEL) then
      return settle_end(j, CANCELLED, 0, E.CANCELLED)
    elseif outcome == O.ABORT then
      return settle_end(j, FAILED, F.ABORTED, E.FAILED)
    elseif outcome == O.RETRY then
      if j.attempts >= parts.max_attempts then
        return settle_end(j, FAILED, F.ATTEMPTS, E.FAILED)
      end
      return settle_back(j, after(now, sub(settlement, 26, 33)), E.RETRYING)
    elseif outcome == O.SNOOZE then
      return settle_back(j, after(now, sub(settlement, 26, 33)), E.SNOOZED)
    end
    return settle_back(j, nil, E.RELEASED)
  end

  -- Settles an Active job, or a member of a batch.
  function job.apply_outcome(j, settlement)
    local was_active = j.state == ACTIVE
    local state = end_run(j, settlement)
    if was_active and is_laned() then
      lanes.released(job.lane(j))
    end
    return state
  end

  -- What becomes of a job whose lease ran out.
  function job.apply_crash(j)
    job.leave(j)
    j.epoch = next_epoch(j.epoch, now)
    job.push_error(j, X.CRASH, 'the lease ran out: the worker\'s process died or hung')
    event(E.STALLED, j.id)
    j.crashes = math.min(j.crashes + 1, 4294967295)
    if job.has(j, FLAG_CANCEL) then
      settle_end(j, CANCELLED, 0, E.CANCELLED)
    elseif j.crashes >= job.parts(j).max_crashes then
      settle_end(j, FAILED, F.CRASHES, E.FAILED)
    else
      settle_back(j, nil, nil)
    end
    if is_laned() then
      lanes.released(job.lane(j))
    end
  end

  -- The lanes of those that are done.
  function job.lanes_of_done()
    local names = {}
    for i = 1, done_count do
      local id = sub(done_members[i], 8)
      local parts = job.parts_of(call('HGET', K.SPEC, id) or '')
      names[i] = parts and parts.lane or ''
    end
    return names
  end

  -- Some of them do not stand where their entries say, so a seq is damaged; the spec has it too.
  function job.find_done()
    for i = 1, done_count do
      local id = sub(done_members[i], 8)
      local seq = sub(call('HGET', K.SPEC, id) or '', 1, 7)
      if #seq == 7 and seq ~= sub(done_members[i], 1, 7) and call('ZREM', K.ACTIVE_SET, seq .. id) == 1 and is_done_kept then
        done_runs[i * 2] = sub(done_runs[i * 2], 1, 9) .. seq .. sub(done_runs[i * 2], 17)
        done_scores[i * 2] = seq .. id
      end
    end
  end
end

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
  local rule = meta.keep[COMPLETED]
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
  if #settlement == 25 and byte(settlement, 25) == O.COMPLETED and byte(entry, 34) % 4 == 0
    and sub(entry, 35, 37) == '\0\0\0' then
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
