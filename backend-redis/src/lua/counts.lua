-- How many jobs a queue has.
--
-- Arguments: the clock's reading, or ''.
-- Answer: 1 if the queue is paused, else 0; how many stand in each set of the walk (see walk.lua); then per shelf that
--   holds jobs its kind, and how many.
-- Errors: FERROQ_SCHEMA.
-- Work: proportional to the number of kinds that ever were on a shelf, if one holds jobs; else constant.
local refused = look(ARGV[1])
if refused then
  return refused
end
local reply = { meta.paused and 1 or 0 }
for n = 1, #WALK do
  reply[n + 1] = call('ZCARD', WALK[n])
end
if call('ZCARD', K.SHELVES) > 0 then
  local kinds = call('HGETALL', K.KINDS)
  for i = 1, #kinds, 2 do
    local from = kinds[i + 1] * 256
    local jobs = call('ZCOUNT', K.SHELVES, from, from + 255)
    if jobs > 0 then
      reply[#reply + 1] = kinds[i]
      reply[#reply + 1] = jobs
    end
  end
end
return reply
