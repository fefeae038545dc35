-- Looks whether a job of the queue has one of some seqs, in steps; for restore.lua. Specs never move, so a scan to its
-- end meets every job that was there all the time.
--
-- Arguments: the clock's reading, or ''; the scan's cursor, '0' at first; the seqs (7 bytes each), in one.
-- Answer: the next cursor, '0' at the end; and 1 if one of the seqs is taken.
-- Errors: FERROQ_SCHEMA.
-- Work: some 500 jobs, and the bytes of their specs, about 2 microseconds each.
local refused = look(ARGV[1])
if refused then
  return refused
end
local wanted = {}
for at = 1, #ARGV[3], 7 do
  wanted[sub(ARGV[3], at, at + 6)] = true
end
local found = call('HSCAN', K.SPEC, ARGV[2], 'COUNT', 500)
for i = 2, #found[2], 2 do
  if wanted[sub(found[2][i], 1, 7)] then
    return { '0', 1 }
  end
end
return { found[1], 0 }
