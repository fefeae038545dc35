-- Inserts jobs of one queue, for one call or for several that were in flight together.
--
-- Arguments: the clock's reading in microseconds, or '' for the server's TIME; the lowest call number still open, or '';
--   how many calls; for each call its number (or ''), how many jobs, and per job its id (16 bytes) and its spec from the
--   priority on (see record.lua).
-- Answer: one byte of flags (1: the queue was made), then one text per call, or an error of that call: per job '\0'
--   (inserted), '\1' and the id of the job whose place it would have taken, '\3' and the id of the job that got its payload,
--   or '\4' and the id of the job that counted it and the count (4).
-- Errors: FERROQ_SCHEMA. Those of a single call: FERROQ_INVALID.
-- Work: proportional to the jobs of the call, about 2 microseconds each.
local refused = begin(ARGV[1])
if refused then
  return refused
end
local calls = tonumber(ARGV[3])
local answers, kept = { '' }, {}
-- First what is there already: one look for all ids, so that nothing is written before everything is known.
local ids, at = {}, 4
local plan, first_of = {}, {}
for i = 1, calls do
  local call_number, jobs = ARGV[at], tonumber(ARGV[at + 1])
  -- A call that came twice, because its caller repeated it while it still waited to go out, runs once.
  local known = recall(call_number) or first_of[call_number]
  if call_number ~= '' then
    first_of[call_number] = first_of[call_number] or i
  end
  plan[i] = { call_number, jobs, at + 2, known }
  if not known then
    for k = 1, jobs do
      ids[#ids + 1] = ARGV[at + 2 * k]
    end
  end
  at = at + 2 + jobs * 2
end
-- HSTRLEN per job would be as many calls; HMGET answers all at once, and for new ids it answers nothing.
local there, looked = get_many(K.SPEC, ids), 0
if #ids > 0 then
  go_on()
end
local inserted = 0
for i = 1, calls do
  local call_number, jobs, first, known = unpack(plan[i], 1, 4)
  if type(known) == 'number' then
    answers[i + 1] = answers[known + 1]
  elseif known then
    answers[i + 1] = byte(known, 1) == 69 and sub(known, 2) or other_call()
  else
    local answer = {}
    for k = 1, jobs do
      looked = looked + 1
      local one = put(ARGV[first + 2 * k - 2], ARGV[first + 2 * k - 1], there[looked])
      answer[k] = one
      if one == '\0' then
        inserted = inserted + 1
      end
    end
    answers[i + 1] = concat(answer)
    if call_number ~= '' then
      kept[#kept + 1] = call_number
      kept[#kept + 1] = answer_member(call_number, 'E' .. answers[i + 1])
    end
  end
end
flush_puts()
hint_work = hint_work or inserted > 0
created = not exists and inserted > 0
if looked > 0 then
  finish()
end
keep_answers(kept, ARGV[2])
answers[1] = created and '\1' or '\0'
return answers
