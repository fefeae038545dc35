-- A page of a queue's event log.
--
-- Arguments: the clock's reading, or ''; the number of the last entry read; how many entries.
-- Answer: the number of the last entry ever written; the number that the page begins after; 1 if entries were missed;
--   then per entry its number and what it holds.
-- Errors: FERROQ_SCHEMA.
-- Work: proportional to the entries and their bytes.
local refused = look(ARGV[1])
if refused then
  return refused
end
local last, from, is_missed = '0', ARGV[2], false
if call('EXISTS', K.EVENTS) == 1 then
  local info = call('XINFO', 'STREAM', K.EVENTS)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      last = sub(info[i + 1], 3)
    end
  end
end
local first = call('XRANGE', K.EVENTS, '-', '+', 'COUNT', 1)[1]
local dropped = first and string.format('%.0f', tonumber(sub(first[1], 3)) - 1) or last
-- A number from beyond the end was given out before the queue was obliterated: what came after it is lost.
if tonumber(from) > tonumber(last) or tonumber(from) < tonumber(dropped) then
  from, is_missed = dropped, true
end
local reply = { last, from, is_missed and 1 or 0 }
local entries = ARGV[3] ~= '0' and call('XRANGE', K.EVENTS, '(0-' .. from, '+', 'COUNT', ARGV[3]) or {}
for i = 1, #entries do
  reply[2 * i + 2] = sub(entries[i][1], 3)
  reply[2 * i + 3] = entries[i][2][2]
end
return reply
