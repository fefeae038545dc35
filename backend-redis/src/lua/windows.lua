-- Stores the windows of calendars, which the client computed since scripts know no time zones.
--
-- Arguments: per calendar its instants, in order, as JSON: an object of lists.
-- Answer: 1, or 0 if there is no such queue.
-- Errors: FERROQ_SCHEMA.
-- Work: constant.
local refused = look('0')
if refused then
  return refused
end
if not exists then
  return 0
end
call('HSET', K.META, 'windows', ARGV[1])
return 1
