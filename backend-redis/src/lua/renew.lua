-- Keeps leases: each that is current holds for the term from now on, even if its time was over.
--
-- Arguments: the clock's reading, or ''; the term (8 bytes); then the leases: id (16) and epoch (8) each.
-- Answer: per lease '\0' renewed, '\1' renewed and somebody asked to cancel, '\2' lease lost, '\3' gone; as one text.
-- Errors: FERROQ_SCHEMA.
-- Work: proportional to the leases, about 2 microseconds each; and where a gap was longer than half the shortest lease, all
--   Active jobs, about 2 microseconds each.
local refused = begin(ARGV[1])
if refused then
  return refused
end
local n = #ARGV - 2
if not exists then
  return string.rep('\3', n)
end
attend()
local ids = {}
for i = 1, n do
  ids[i] = sub(ARGV[2 + i], 1, 16)
end
local entries = get_many(K.RUN, ids)
local till = after(now, ARGV[2])
local score = string.format('%.0f', number(till))
local runs, active, answers = {}, {}, {}
for i = 1, n do
  local e = entries[i]
  if e and is_entry(e) and sub(e, 1, 9) == char(ACTIVE) .. sub(ARGV[2 + i], 17, 24) then
    local k = #runs
    runs[k + 1], runs[k + 2] = ids[i], sub(e, 1, 58) .. till .. ARGV[2] .. sub(e, 75)
    active[k + 1], active[k + 2] = score, sub(e, 10, 16) .. ids[i]
    answers[i] = has(byte(e, 36), FLAG_CANCEL) and '\1' or '\0'
  elseif e or call('HEXISTS', K.SPEC, ids[i]) == 1 then
    answers[i] = '\2'
  else
    answers[i] = '\3'
  end
end
if #runs > 0 then
  note_term(number(ARGV[2]))
  many('HSET', K.RUN, runs, 2)
  -- Only where the job stands: under a damaged seq it would come to stand in a second place.
  for from = 1, #active, ARGS_MAX do
    call('ZADD', K.ACTIVE_SET, 'XX', unpack(active, from, math.min(from + ARGS_MAX - 1, #active)))
  end
end
finish()
return concat(answers)
