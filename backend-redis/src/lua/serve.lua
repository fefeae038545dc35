-- Claims from the lanes in their turn.
function lanes.claim(ask, out)
  lanes.serve(ask, function(line, max, room, gate)
    local from = line * 256
    local members = call('ZRANGEBYSCORE', K.LINE, from, from + 255, 'LIMIT', 0, max)
    local looked_at, claimed, is_full = claim_from(members, ask, out, room)
    if looked_at > 0 then
      local gone = members
      if looked_at < #members then
        gone = {}
        for i = 1, looked_at do
          gone[i] = members[i]
        end
      end
      many('ZREM', K.LINE, gone, 1)
    end
    if gate and claimed == 1 and not has(byte(taken.runs[taken.count * 2], 36), FLAG_BATCH) then
      is_full = batches.open(gate, line, taken, out, ask.worker) or is_full
    end
    return looked_at, claimed, is_full, looked_at == #members and #members < max
  end)
end
