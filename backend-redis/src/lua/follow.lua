-- Follow-ups of a settlement: on the same queue they are inserted at once; for another queue, which may live on another
-- node, they go to the outbox, numbered, and are relayed from there.
local function follow_up(destination, id, tail)
  if destination == '' then
    local answer = put(id, tail, call('HEXISTS', K.SPEC, id) == 1)
    flush_puts()
    hint_work = hint_work or answer == '\0'
    return answer
  end
  -- One series for all queues, so that numbers rise through the outbox, and whoever reads it in parts meets no younger one
  -- for a queue before an older one. A number is not below storage time, so that a queue that was obliterated, or lost
  -- its last writes, gives none twice.
  local last = tonumber(call('HGET', K.LEDGER, 'o') or '0')
  local sent = math.max(last + 1, now)
  call('HSET', K.LEDGER, 'o', string.format('%.0f', sent))
  call('PERSIST', K.LEDGER)
  call('ZADD', K.OUTBOX, string.format('%.0f', sent), pack('>I8', sent) .. char(#destination) .. destination .. id .. tail)
  return '\2' .. pack('>I8', sent)
end
