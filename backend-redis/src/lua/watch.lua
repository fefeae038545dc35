-- Marks a job as one whose outcome somebody waits for.
--
-- Arguments: the clock's reading, or ''; the id.
-- Answer: 1 if the job exists, else 0.
-- Errors: FERROQ_SCHEMA.
-- Work: one job.
local refused = begin(ARGV[1])
if refused then
  return refused
end
local j = job.load(ARGV[2])
if not j then
  return 0
end
if not j.unreadable and not job.has(j, FLAG_WAITED_ON) then
  j.flags = j.flags + FLAG_WAITED_ON
  job.save(j)
end
return 1
