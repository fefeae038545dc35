-- What an outcome does to a job that is more than plain, as ferroq_core::policy::settle has it, and what becomes of one whose
-- lease ran out.

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
