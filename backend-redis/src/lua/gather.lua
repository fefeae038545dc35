-- Gathers more members into a batch, out of its lane's line.
--
-- Arguments: the clock's reading, or ''; the lease of the batch's leader: id (16) and epoch (8); how many jobs to look at.
-- Answer: flags (1 byte, 2: the outbox is not empty); then '\0', '\1' if the batch has all its members, else '\0', and how many it
--   has (8); or '\2' lease lost, '\3' gone.
-- Errors: FERROQ_SCHEMA.
-- Work: proportional to the jobs looked at and to the bytes of their specs, about 3 microseconds each.
local refused = begin(ARGV[1])
if refused then
  return refused
end
if not exists then
  return outbox_flag() .. '\3'
end
go_on()
local leader, answer = job.load(sub(ARGV[2], 1, 16)), nil
if not leader then
  answer = '\3'
elseif not batches.led(leader, sub(ARGV[2], 17, 24)) then
  answer = '\2'
else
  local b, members = batches.gather_more(leader, tonumber(ARGV[3]))
  if #heirs > 0 then
    job.place_heirs()
    members = call('ZCOUNT', K.BLOCKED_SET, leader.batch, leader.batch)
  end
  answer = '\0' .. (batches.is_formed(b) and '\1' or '\0') .. pack('>I8', members)
end
finish()
return outbox_flag() .. answer
