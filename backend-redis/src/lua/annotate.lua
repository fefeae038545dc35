-- Writes what runs leave on their records: progress, log lines, checkpoints.
--
-- Arguments: the clock's reading, or ''; then per note the lease (id 16, epoch 8), the progress or '', the checkpoint or
--   '', and the log lines, each as its length (2 bytes) and its text, in one.
-- Answer: per note '\0' noted, '\2' lease lost, '\3' gone; as one text.
-- Errors: FERROQ_SCHEMA.
-- Work: proportional to the notes and their bytes; a log of 100 lines is rewritten, at most 100 KiB.
local refused = begin(ARGV[1])
if refused then
  return refused
end
local answers = {}
if exists then
  go_on()
end
for at = 2, #ARGV, 4 do
  local lease, progress, checkpoint, lines = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local id = sub(lease, 1, 16)
  local j = exists and job.load(id)
  if not j then
    answers[#answers + 1] = '\3'
  elseif j.state ~= ACTIVE or j.epoch ~= sub(lease, 17, 24) then
    answers[#answers + 1] = '\2'
  else
    local mask = j.mask
    if lines ~= '' then
      local head, stamped, from = now8 .. pack('>I4', j.runs), {}, 1
      while from < #lines do
        local till = from + 1 + unpack_bytes('>I2', lines, from)
        stamped[#stamped + 1] = head .. sub(lines, from, till)
        from = till + 1
      end
      job.append_notes(j, N.LOG, 'l', concat(stamped), 100, 12)
    end
    if checkpoint ~= '' then
      job.put_note(j, N.CHECKPOINT, 'c', checkpoint)
    end
    if progress ~= '' then
      job.put_note(j, N.PROGRESS, 'p', progress)
      event(E.PROGRESS, id)
    end
    if j.mask ~= mask then
      job.save(j)
    end
    answers[#answers + 1] = '\0'
  end
end
if exists then
  finish()
end
return concat(answers)
