-- Takes in what another queue's outbox holds for this queue: each entry once, in the order of its numbers.
--
-- Arguments: the clock's reading, or ''; the name of the queue that sends; '1' to take in what is new, '0' to ask only for
--   the answers to what was taken in; per entry its number (8 bytes), id, and spec from the priority on. The answers
--   kept under ANSWERS are those to that queue.
-- Answer: flags (1 byte, 1: the queue was made), and per entry a text: what enqueue.lua answers, or '' if it was
--   taken in so long ago that its answer is no longer kept.
-- Errors: FERROQ_SCHEMA.
-- Work: proportional to the entries, about 4 microseconds each.
local refused = begin(ARGV[1])
if refused then
  return refused
end
local from = 'i:' .. ARGV[2]
local last = call('HGET', K.LEDGER, from) or '0'
local last_number = tonumber(last)
local replies, kept, inserted, newest = { '' }, {}, 0, last_number
for at = 4, #ARGV, 3 do
  local sent = unpack_bytes('>I8', ARGV[at])
  if sent <= last_number or ARGV[3] == '0' then
    local known = call('ZRANGEBYSCORE', K.ANSWERS, sent, sent, 'LIMIT', 0, 1)
    replies[#replies + 1] = known[1] and sub(known[1], 9) or ''
  else
    if newest == last_number then
      go_on()
    end
    local answer = put(ARGV[at + 1], ARGV[at + 2], call('HEXISTS', K.SPEC, ARGV[at + 1]) == 1)
    flush_puts()
    if answer == '\0' then
      inserted = inserted + 1
    end
    newest = sent
    replies[#replies + 1] = answer
    kept[#kept + 1] = string.format('%.0f', sent)
    kept[#kept + 1] = ARGV[at] .. answer
  end
end
if newest > last_number then
  hint_work = hint_work or inserted > 0
  created = not exists
  finish()
  call('HSET', K.LEDGER, from, string.format('%.0f', newest))
  call('PERSIST', K.LEDGER)
  -- Numbers are instants of the sender's, so these are the answers of the last ten minutes.
  keep_answers(kept, string.format('%.0f', math.max(newest - SESSION_IDLE_MS * 1000, 0)))
end
replies[1] = created and '\1' or '\0'
return replies
