-- The lanes with policies of their own: names and policies in turn, as the server has them.
--
-- Arguments: the clock's reading, or ''.
-- Answer: a list.
-- Errors: FERROQ_SCHEMA.
-- Work: proportional to the lanes that have one, about a microsecond each.
local refused = look(ARGV[1])
if refused then
  return refused
end
return call('HGETALL', K.POLICIES)
