-- An operator's act on jobs, by ids or by filter.
--
-- Arguments: the clock's reading, or ''; the call's number, or ''; the lowest number still open, or ''; the act (1 byte: 0
--   cancel, 1 retry, 2 promote, 3 reschedule, 4 set priority, 5 remove, 6 redrive) and what it carries (retry: '\1' to reset;
--   reschedule: 0 now, 1 after a span, 2 at an instant (1), and that (8); set priority: the priority (1)); then 'i' and
--   the ids, or 'f' and a step (see walk.lua).
-- Answer: where the next step goes on (see walk.lua), or ''; and per job acted on its id (16), what became of it (1 byte: 0
--   done, 1 requested, 2 unchanged, 3 refused, 4 key held, 5 not found), its state (1), and the holder (16) of a held key;
--   and flags (1 byte, 2: the outbox is not empty).
-- Errors: FERROQ_SCHEMA, FERROQ_INVALID.
-- Work: proportional to the ids, or to the records that the step looks at, and to the bytes of their specs, about 8
--   microseconds each; and up to twice as many prunings as jobs were cancelled.
local refused = begin(ARGV[1])
if refused then
  return refused
end
local known = recall(ARGV[2])
if known then
  if byte(known, 1) ~= 65 then
    return other_call()
  end
  local place_len = byte(known, 2)
  return { sub(known, 3, 2 + place_len), sub(known, 3 + place_len), outbox_flag() }
end
local DONE, REQUESTED, UNCHANGED, REFUSED, HELD, NOT_FOUND = 0, 1, 2, 3, 4, 5
local argument = sub(ARGV[4], 2)

-- Takes a job out of its line. One that can't be read may stand elsewhere than it says.
local function leave(j)
  job.leave(j)
  if j.found then
    call('ZREM', j.found.set, j.found.member)
  end
end

local function cancel(j)
  if j.state == ACTIVE then
    if not job.has(j, FLAG_CANCEL) then
      j.flags = j.flags + FLAG_CANCEL
      job.save(j)
      event(E.CANCEL_REQUESTED, j.id)
    end
    return REQUESTED
  elseif j.state > ACTIVE then
    return j.state == CANCELLED and UNCHANGED or REFUSED
  end
  leave(j)
  if j.batch and j.state == BLOCKED then
    -- Its batch's lease settles it no more.
    j.epoch = next_epoch(j.epoch, now)
  end
  event(E.CANCELLED, j.id)
  job.finish(j, CANCELLED, 0)
  -- Also if it was not kept.
  j.state = CANCELLED
  return DONE
end

local function retry(j)
  if j.state < COMPLETED then
    return j.state == BLOCKED and REFUSED or UNCHANGED
  end
  local parts = job.parts(j)
  if parts.dedup_key then
    local hold = job.hold_of(parts.dedup_key)
    if hold and sub(hold, 1, 16) ~= j.id then
      return HELD, sub(hold, 1, 16)
    end
    local mode = parts.dedup_mode
    if mode ~= M.FOR and mode ~= M.DEBOUNCE and mode ~= M.COALESCE then
      job.take_key(j.id, parts)
    end
  end
  leave(j)
  job.drop_note(j, N.RESULT, 'r')
  j.till, j.term, j.failure = NONE8, NONE8, 0
  if job.has(j, FLAG_CANCEL) then
    j.flags = j.flags - FLAG_CANCEL
  end
  if argument == '\1' then
    j.attempts, j.crashes = 0, 0
  end
  j.due, j.expires = now8, parts.expires_in and after(now, parts.expires_in) or NONE8
  job.wait(j)
  job.stand(j)
  event(E.RETRIED, j.id)
  hint_work = true
  return DONE
end

local function promote(j)
  if j.state ~= DELAYED then
    return j.state == WAITING and UNCHANGED or REFUSED
  end
  leave(j)
  j.due = now8
  job.wait(j)
  job.stand(j)
  event(E.PROMOTED, j.id)
  hint_work = true
  return DONE
end

local function reschedule(j)
  if j.state > DELAYED then
    return REFUSED
  end
  leave(j)
  job.land(j, job.due_of(byte(argument), sub(argument, 2)))
  event(E.RESCHEDULED, j.id)
  hint_work = true
  return DONE
end

local function set_priority(j)
  if j.state >= COMPLETED then
    return REFUSED
  elseif j.priority == byte(argument) then
    return UNCHANGED
  end
  leave(j)
  j.priority = byte(argument)
  job.stand(j)
  event(E.RESCHEDULED, j.id)
  return DONE
end

local function remove_job(j)
  if j.state == ACTIVE then
    return REFUSED
  end
  leave(j)
  if job.has(j, FLAG_WAITED_ON) then
    hint_ended[#hint_ended + 1] = j.id
  end
  event(E.REMOVED, j.id)
  job.free_key(j, j.state >= COMPLETED and EXIT.REMOVED_ENDED or EXIT.REMOVED_LIVE)
  job.erase(j)
  return DONE
end

local function redrive(j)
  if j.state == ACTIVE or not job.send_home(j) then
    return REFUSED
  end
  return remove_job(j)
end

local act = ({ [0] = cancel, retry, promote, reschedule, set_priority, remove_job, redrive })[byte(ARGV[4])]
local answers, place = {}, ''
local function act_on(j)
  local answer, holder = act(j)
  answers[#answers + 1] = j.id .. char(answer, j.state) .. (holder or '')
  if is_laned() then
    lanes.forget_empty()
  end
  if #heirs > 0 then
    job.place_heirs()
  end
end

if exists then
  go_on()
end
if ARGV[5] == 'i' then
  for from = 6, #ARGV, READ_MAX do
    local ids, met = {}, {}
    for i = from, math.min(from + READ_MAX - 1, #ARGV) do
      ids[#ids + 1] = ARGV[i]
    end
    local blobs, entries = get_many(K.SPEC, ids), get_many(K.RUN, ids)
    for i = 1, #ids do
      local j
      if met[ids[i]] or placed_heirs[ids[i]] then
        j = job.load(ids[i])
      elseif exists and blobs[i] then
        j = job.of(ids[i], blobs[i], entries[i])
      end
      met[ids[i]] = true
      if j then
        act_on(j)
      else
        answers[#answers + 1] = ids[i] .. char(NOT_FOUND, 0)
      end
    end
  end
elseif exists then
  local step = step_of(6)
  local found = walk(step)
  place = next_place(found, step)
  each_at(found, function(j, at)
    if matches(j, step) then
      if placed_heirs[j.id] then
        j = job.load(j.id)
      end
      if j.member ~= at.member or job.line(j) ~= at.set then
        j.found = at
      end
      act_on(j)
    end
  end)
end
if exists then
  hint_control = #answers > 0
  finish()
end
local answered = concat(answers)
if ARGV[2] ~= '' then
  keep_answers({ ARGV[2], answer_member(ARGV[2], 'A' .. char(#place) .. place .. answered) }, ARGV[3])
end
return { place, answered, outbox_flag() }
