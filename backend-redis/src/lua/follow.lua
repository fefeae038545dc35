-- Follow-ups of a settlement: on the same queue they are inserted at once; those for another queue go to the outbox.
local function follow_up(destination, id, tail)
  if destination == '' then
    local answer = put(id, tail, call('HEXISTS', K.SPEC, id) == 1)
    flush_puts()
    hint_work = hint_work or answer == '\0'
    return answer
  end
  return '\2' .. send(destination, id, tail)
end
