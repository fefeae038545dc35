-- What is remembered of starts, in steps and in no order. Such as no longer count may be among them.
--
-- Arguments: the clock's reading, or ''; the scan's cursor, '0' at first.
-- Answer: the next cursor, '0' at the end; then per limit that remembers any its field (see lanes.lua), and until when and
--   the groups (8 + 12 each). A field may come twice.
-- Errors: FERROQ_SCHEMA.
-- Work: some 1,000 fields, about 1 microsecond each.
local refused = look(ARGV[1])
if refused then
  return refused
end
local found = call('HSCAN', K.USAGE, ARGV[2], 'COUNT', 1000)
local reply, fields = { found[1] }, found[2]
for i = 1, #fields, 2 do
  local kind = sub(fields[i], 1, 1)
  if fields[i] == 'q' or kind == 'c' or kind == 'l' then
    reply[#reply + 1], reply[#reply + 2] = fields[i], fields[i + 1]
  end
end
return reply
