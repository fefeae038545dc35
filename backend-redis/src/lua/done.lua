-- What there is to know of completed jobs that are written together, apart from the steady state (see settle.lua).

-- The lanes of those that are done.
function job.lanes_of_done()
  local names = {}
  for i = 1, done_count do
    local id = sub(done_members[i], 8)
    local parts = job.parts_of(call('HGET', K.SPEC, id) or '')
    names[i] = parts and parts.lane or ''
  end
  return names
end

-- Some of them do not stand where their entries say, so a seq is damaged; the spec has it too.
function job.find_done()
  for i = 1, done_count do
    local id = sub(done_members[i], 8)
    local seq = sub(call('HGET', K.SPEC, id) or '', 1, 7)
    if #seq == 7 and seq ~= sub(done_members[i], 1, 7) and call('ZREM', K.ACTIVE_SET, seq .. id) == 1 and is_done_kept then
      done_runs[i * 2] = sub(done_runs[i * 2], 1, 9) .. seq .. sub(done_runs[i * 2], 17)
      done_scores[i * 2] = seq .. id
    end
  end
end
