-- Stores one lane's own policy, or removes it. The queue exists from then on.
--
-- Arguments: the clock's reading, or ''; the lane, '' for the default one; its policy as JSON, or ''; '1' if that needs to know
--   how many jobs of the lane are Active; the calendar that it names, or ''; and what it was made from, if that counts: the
--   policy as it was stored, or ''.
-- Answer: flags (1 byte, 1: the queue was made, 2: the policy is another, and nothing happened).
-- Errors: FERROQ_SCHEMA.
-- Work: constant; where for the first time it must be known how many jobs of lanes are Active, all of these, about 4
--   microseconds each.
local refused = begin(ARGV[1])
if refused then
  return refused
end
if ARGV[6] and ARGV[6] ~= (call('HGET', K.POLICIES, ARGV[2]) or '') then
  return '\2'
end
go_on()
lanes.set_policy(ARGV[2], ARGV[3])
if ARGV[4] == '1' then
  lanes.count_active()
end
lanes.name_calendar(ARGV[5])
created = not exists
hint_control = true
finish()
return created and '\1' or '\0'
