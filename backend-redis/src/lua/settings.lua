-- A queue's settings.
--
-- Arguments: the clock's reading, or ''.
-- Answer: 1 if the queue exists, else 0; 1 if it is paused, else 0; its settings as JSON, or '' if none were stored.
-- Errors: FERROQ_SCHEMA.
-- Work: constant.
local refused = look(ARGV[1])
if refused then
  return refused
end
return { exists and 1 or 0, meta.paused and 1 or 0, call('HGET', K.META, 'config') or '' }
