-- A step of a queue's end: removes jobs in the order of the walk, and with the last of them all that there is of the queue
-- but the answers kept for repeats, what waits in the outbox for other queues, and the ledger, which expires.
--
-- Arguments: the clock's reading, or ''; '1' to go on where jobs are Active; how many jobs.
-- Answer: a number and another: 0 nothing is left, and 1 if the outbox still is; 1 nothing happened, and how many jobs
--   are Active; 2 there is more, and how many went.
-- Errors: FERROQ_SCHEMA.
-- Work: proportional to the jobs and the bytes of their specs, about 5 microseconds each; the last step frees the keys in
--   the server's background.
local refused = begin(ARGV[1])
if refused then
  return refused
end
if before.active > 0 and ARGV[2] ~= '1' then
  return { 1, before.active }
end
local step = { states = EVERY_STATE, max = tonumber(ARGV[3]) }
local total = 0
for n = 1, #WALK do
  total = total + call('ZCARD', WALK[n])
end
local found = walk(step)
local ids, counts = {}, {}
for i = 1, #found do
  ids[i] = sub(found[i].member, 8)
  counts[found[i].n] = (counts[found[i].n] or 0) + 1
end

if total <= step.max then
  local entries, waited_on = get_many(K.RUN, ids), {}
  for i = 1, #ids do
    if entries[i] and #entries[i] >= ENTRY_MIN and has(byte(entries[i], 36), FLAG_WAITED_ON) then
      waited_on[#waited_on + 1] = ids[i]
    end
  end
  local left = call('ZCARD', K.OUTBOX)
  for i = 1, #KEYS do
    if KEYS[i] ~= K.ANSWERS and KEYS[i] ~= K.LEDGER and (left == 0 or KEYS[i] ~= K.OUTBOX) then
      call('UNLINK', KEYS[i])
    end
  end
  -- What was taken in from other queues is remembered for a while, so that a relay that is still under way brings nothing
  -- back.
  call('PEXPIRE', K.LEDGER, SESSION_IDLE_MS)
  call('PUBLISH', K.META, 'c')
  if #waited_on > 0 then
    call('PUBLISH', K.META, 'e' .. concat(waited_on))
  end
  return { 0, left > 0 and 1 or 0 }
end

go_on()
local notes = {}
each_at(found, function(j)
  if job.has(j, FLAG_WAITED_ON) then
    hint_ended[#hint_ended + 1] = j.id
  end
  job.free_key(j, j.state >= COMPLETED and EXIT.REMOVED_ENDED or EXIT.REMOVED_LIVE)
  if j.batch then
    batches.leave(j, 0)
  end
  if is_laned() and j.state == WAITING and j.slot == LANE then
    lanes.left(job.lane(j))
  elseif meta.counted and j.state == ACTIVE then
    lanes.uncount(job.lane(j))
  end
  local fields = job.note_fields(j.id, j.mask)
  for i = 1, #fields do
    notes[#notes + 1] = fields[i]
  end
end)
for n, count in pairs(counts) do
  call('ZREMRANGEBYRANK', WALK[n], 0, count - 1)
end
many('HDEL', K.SPEC, ids, 1)
many('HDEL', K.RUN, ids, 1)
many('HDEL', K.NOTES, notes, 1)
hint_control = true
finish()
return { 2, #found }
