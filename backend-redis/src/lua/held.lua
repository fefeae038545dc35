-- The dedup keys that are held, in steps and in no order. Holds whose time is over may be among them.
--
-- Arguments: the clock's reading, or ''; the scan's cursor, '0' at first.
-- Answer: the next cursor, '0' at the end; then per key its name, and its holder and until when (16 + 8 bytes). A key may
--   come twice.
-- Errors: FERROQ_SCHEMA.
-- Work: some 1,000 keys, about 1 microsecond each.
local refused = look(ARGV[1])
if refused then
  return refused
end
local found = call('HSCAN', K.DEDUP, ARGV[2], 'COUNT', 1000)
local reply = found[2]
table.insert(reply, 1, found[1])
return reply
