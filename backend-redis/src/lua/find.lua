-- One job's record.
--
-- Arguments: the clock's reading, or ''; the id.
-- Answer: the record (see walk.lua), or nothing.
-- Errors: FERROQ_SCHEMA.
-- Work: one job and its bytes.
local refused = look(ARGV[1])
if refused then
  return refused
end
local reply, j = {}, job.load(ARGV[2])
if j then
  add_record(reply, j, call('HGET', K.RUN, ARGV[2]))
end
return reply
