-- What an outage or a step of the clock does to leases.

-- Gives the leases of Active jobs their full term again. After an outage only those that it hurt, which can only grow.
-- This walks all Active jobs, which the workers' concurrency bounds.
function job.extend_leases(gap)
  local members = call('ZRANGE', K.ACTIVE_SET, 0, -1)
  local ids = {}
  for i = 1, #members do
    ids[i] = sub(members[i], 8)
  end
  local entries = get_many(K.RUN, ids)
  local runs, scores, term_min = {}, {}, nil
  for i = 1, #ids do
    local e = entries[i]
    -- One that can't be read is left for the sweep to find.
    if e and is_entry(e) then
      local term = number(sub(e, 67, 74))
      if not term_min or term < term_min then
        term_min = term
      end
      local until8 = after(now, sub(e, 67, 74))
      if not gap or (gap * 2 > term and number(sub(e, 59, 66)) < number(until8)) then
        runs[#runs + 1] = ids[i]
        runs[#runs + 1] = sub(e, 1, 58) .. until8 .. sub(e, 67)
        scores[#scores + 1] = number(until8)
        scores[#scores + 1] = members[i]
      end
    end
  end
  meta.term_min = term_min or 0
  many('HSET', K.RUN, runs, 2)
  many('ZADD', K.ACTIVE_SET, scores, 2)
  return #runs > 0
end
