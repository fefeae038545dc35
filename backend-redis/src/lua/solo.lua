-- The solo line: jobs on their last crash, each of which runs alone in its process.

-- Claims the first job of the solo line that may run here, passing over those that a limit holds back. Answers when one of
-- these may start, as far as can be told.
function job.claim_solo(ask, out)
  local members, opens = call('ZRANGE', K.SOLO_LINE, 0, ask.max_items - 1), math.huge
  for i = 1, #members do
    local may, at, name = true, nil, nil
    if is_laned() then
      local parts = job.parts_of(call('HGET', K.SPEC, sub(members[i], 8)) or '')
      name = parts and parts.lane or ''
      may, at = lanes.may_start(name)
    end
    if may then
      local _, claimed = claim_from({ members[i] }, ask, out, 1)
      call('ZREM', K.SOLO_LINE, members[i])
      if claimed > 0 then
        if name then
          lanes.note_start(name)
        end
        break
      end
    else
      opens = math.min(opens, at or math.huge)
    end
  end
  return opens < math.huge and opens
end
