-- Fails a claimed job whose spec the client could not read.
--
-- Arguments: the clock's reading, or ''; the lease: id (16) and epoch (8).
-- Answer: 1 if the lease was current, else 0.
-- Errors: FERROQ_SCHEMA.
-- Work: one job.
local refused = begin(ARGV[1])
if refused then
  return refused
end
local j = job.load(sub(ARGV[2], 1, 16))
if not j or j.state ~= ACTIVE or j.epoch ~= sub(ARGV[2], 17, 24) then
  return 0
end
go_on()
job.leave(j)
job.fail(j, F.QUARANTINED, X.QUARANTINE, UNREADABLE)
finish()
return 1
