-- A page of a queue's jobs.
--
-- Arguments: the clock's reading, or ''; a step (see walk.lua).
-- Answer: where the next page goes on, or ''; then the records (see walk.lua).
-- Errors: FERROQ_SCHEMA.
-- Work: proportional to the records that the step looks at and to their bytes, about 4 microseconds each.
local refused = look(ARGV[1])
if refused then
  return refused
end
local step = step_of(2)
local found = walk(step)
local reply = { next_place(found, step) }
each_at(found, function(j, _, entry)
  if matches(j, step) then
    add_record(reply, j, entry)
  end
end)
return reply
