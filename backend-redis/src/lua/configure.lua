-- Stores a queue's settings, or pauses or resumes it and leaves the rest as it is. The queue exists from then on.
--
-- Arguments: the clock's reading, or ''; '1' to pause, else '0'; or all of the settings (see config.lua), and what they were
-- made from, if that counts: '1' if the queue was paused, else '0', and its settings as they were stored, or ''.
-- Answer: flags (1 byte, 1: the queue was made, 2: the settings are others, and nothing happened), and '\1' if that paused or
-- resumed the queue, else '\0'.
-- Errors: FERROQ_SCHEMA.
-- Work: constant; a clock that stepped back extends every lease.
local refused = begin(ARGV[1])
if refused then
  return refused
end
if ARGV[16] and ((ARGV[16] == '1') ~= meta.paused or ARGV[17] ~= (call('HGET', K.META, 'config') or '')) then
  return '\2\0'
end
go_on()
local paused = ARGV[2] == '1'
local changed = meta.paused ~= paused
if changed then
  queue_event(paused and E.PAUSED or E.RESUMED)
end
if ARGV[3] then
  store_config(2)
else
  call('HSET', K.META, 'paused', ARGV[2])
end
created = not exists
hint_control = true
finish()
return (created and '\1' or '\0') .. (changed and '\1' or '\0')
