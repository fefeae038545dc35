-- The ways out: starting, ending, and removal. Every one of them frees the job's dedup key as the key's mode says, if the
-- job is still its holder. A key's entry is its holder (16), until when (8), and the job pending behind the holder (16), if
-- there is one.

local function mode_frees(mode, exit)
  if mode == M.DEBOUNCE or mode == M.COALESCE then
    return true
  elseif exit == EXIT.STARTED then
    return false
  elseif mode == M.UNTIL_FINISHED or mode == M.KEEP_LATEST then
    return true
  elseif mode == M.FOR then
    return exit == EXIT.CANCELLED or exit == EXIT.REMOVED_LIVE
  end
  return exit == EXIT.REMOVED_LIVE or exit == EXIT.REMOVED_ENDED
end

-- A key's entry, if it is held now; nil otherwise.
function job.hold_of(key)
  local hold = call('HGET', K.DEDUP, key)
  if not hold then
    return nil
  end
  local till = sub(hold, 17, 24)
  if till ~= NONE8 and now >= number(till) then
    return nil
  end
  return hold
end

-- So many holds whose time is over are kept, because they hold again if the clock steps back.
local HOLDS_OVER_MAX = 1024

-- Gives a job its key, and drops two holds whose time has long been over, so that they can't pile up.
function job.take_key(id, parts)
  local till = NONE8
  if parts.dedup_mode == M.FOR then
    till = after(now, parts.dedup_span)
    call('ZADD', K.HOLDS, number(till), parts.dedup_key)
    if call('ZCOUNT', K.HOLDS, '-inf', now) > HOLDS_OVER_MAX then
      local over = call('ZRANGE', K.HOLDS, 0, 1)
      for i = 1, #over do
        local hold = call('HGET', K.DEDUP, over[i])
        if hold and sub(hold, 17, 24) ~= NONE8 and number(sub(hold, 17, 24)) <= now then
          call('HDEL', K.DEDUP, over[i])
        end
        call('ZREM', K.HOLDS, over[i])
      end
    end
  end
  call('HSET', K.DEDUP, parts.dedup_key, id .. till)
end

function job.free_key(j, exit)
  if not (has(j.traits, T.DEDUP) or has(byte(j.blob, 25) or 0, T.DEDUP)) then
    return
  end
  local parts = job.parts(j)
  if not parts.dedup_key then
    return
  end
  local frees = mode_frees(parts.dedup_mode, exit)
  if not frees and (parts.dedup_mode == M.WHILE_KEPT or exit == EXIT.STARTED) then
    return
  end
  local hold = call('HGET', K.DEDUP, parts.dedup_key)
  if not hold then
    return
  elseif #hold >= 40 and sub(hold, 25, 40) == j.id then
    call('HSET', K.DEDUP, parts.dedup_key, sub(hold, 1, 24))
  -- A hold for a time that has no end is no such hold, and neither is one that has a job pending: the mode is damaged.
  elseif sub(hold, 1, 16) == j.id and (frees or sub(hold, 17, 24) == NONE8 or #hold >= 40) then
    call('ZREM', K.HOLDS, parts.dedup_key)
    if #hold >= 40 then
      call('HSET', K.DEDUP, parts.dedup_key, sub(hold, 25, 40) .. NONE8)
      heirs[#heirs + 1] = { sub(hold, 25, 40), parts.dedup_key }
    else
      call('HDEL', K.DEDUP, parts.dedup_key)
    end
  end
end

-- A job left this batch for good.
function job.orphan(number)
  heirs[#heirs + 1] = { number }
end

-- Gives those that were pending behind a key's holder the place that their start gives them, and then batches that lost
-- their leader the next one.
function job.place_heirs()
  local list, orphaned = heirs, {}
  heirs = {}
  if is_laned() then
    lanes.forget_empty()
  end
  for i = 1, #list do
    local id, key = list[i][1], list[i][2]
    local j = key and job.load(id)
    if not key then
      orphaned[#orphaned + 1] = id
    elseif not j then
      -- What is gone must not hold a key.
      if sub(call('HGET', K.DEDUP, key) or '', 1, 16) == id then
        call('HDEL', K.DEDUP, key)
      end
    elseif j.state == BLOCKED or j.unreadable then
      job.leave(j)
      job.land(j, j.due)
      event(E.PROMOTED, id)
      placed_heirs[id] = true
      hint_work = true
    end
  end
  for i = 1, #orphaned do
    batches.pass_on(orphaned[i])
  end
end

-- A job leaves its batch for good. Where there are no batches only a damaged one has any.
local function out_of_batch(j, failure)
  if j.batch and batches.leave then
    batches.leave(j, failure)
  end
end

-- Removes all that there is of a job that stands in no line any more.
function job.erase(j)
  out_of_batch(j, 0)
  call('HDEL', K.SPEC, j.id)
  if j.noted then
    call('HDEL', K.RUN, j.id)
  end
  many('HDEL', K.NOTES, job.note_fields(j.id, j.mask), 1)
end

-- Removes a job from its line and altogether.
function job.remove(j)
  job.leave(j)
  job.free_key(j, j.state >= COMPLETED and EXIT.REMOVED_ENDED or EXIT.REMOVED_LIVE)
  job.erase(j)
end

-- When the record of a job that ends now may go; nil: at once.
local function prune_at(j, state)
  local rule = keep_of(state)
  local age
  local own = has(j.traits, T.KEEP) and (job.parts(j).keep or {})[state] or '\0'
  if byte(own, 1) == 1 then
    age = NONE8
  elseif byte(own, 1) == 2 then
    age = sub(own, 2, 9)
  elseif rule.count == 0 then
    age = NONE8
  else
    age = span_of(rule.age)
  end
  if job.has(j, FLAG_WAITED_ON) and number(age) < WAITED_ON_KEEP then
    age = pack('>i8', WAITED_ON_KEEP)
  end
  if age == NONE8 then
    return nil
  end
  return after(now, age)
end

-- Ends a job that has left its line. Logs no event, because ends have different names.
function job.finish(j, state, failure)
  out_of_batch(j, failure)
  if state == FAILED and meta.dead_letter and failure ~= F.QUARANTINED then
    job.copy(j, failure)
  end
  job.free_key(j, state == CANCELLED and EXIT.CANCELLED or EXIT.ENDED)
  if job.has(j, FLAG_WAITED_ON) then
    hint_ended[#hint_ended + 1] = j.id
  end
  local prune = prune_at(j, state)
  if not prune then
    job.free_key(j, EXIT.REMOVED_ENDED)
    job.erase(j)
    return
  end
  j.state, j.slot, j.failure, j.till, j.term = state, LANE, failure, now8, prune
  job.stand(j)
  added[state] = added[state] + 1
end

-- Fails a job that stands in no line any more.
function job.fail(j, failure, kind, message)
  job.push_error(j, kind, message)
  event(E.FAILED, j.id)
  job.finish(j, FAILED, failure)
end
