-- The lanes with policies of their own: names and policies in turn, as the server has them.
--
-- Arguments: the clock's reading, or ''; a lane, '' for the default one, if only its policy is asked for.
-- Answer: a list; or that policy, '' if there is none.
-- Errors: FERROQ_SCHEMA.
-- Work: proportional to the lanes that have one, about a microsecond each; for one lane constant.
local refused = look(ARGV[1])
if refused then
  return refused
end
if ARGV[2] then
  return call('HGET', K.POLICIES, ARGV[2]) or ''
end
return call('HGETALL', K.POLICIES)
