-- Enqueue of a job that brings along more than its readers care about: a key, a start of its own, an end, budgets.
function job.put(id, tail)
  local spec, is_pending = '\0\0\0\0\0\0\0' .. put_times .. tail, false
  local parts = job.parts_of(spec)
  if has(byte(tail, 2), T.DEDUP) then
    local hold = job.hold_of(parts.dedup_key)
    if hold then
      local answer = job.meet(hold, parts, spec)
      if answer then
        return answer
      end
      is_pending = true
      call('HSET', K.DEDUP, parts.dedup_key, sub(hold, 1, 24) .. id)
    else
      job.take_key(id, parts)
    end
  end
  put_seen[id] = true
  meta.seq = meta.seq + 1
  local seq = pack('>I7', (parts.lifo and -meta.seq or meta.seq) + SEQ_BIAS)
  local expires = parts.expires_in and after(now, parts.expires_in) or NONE8
  -- An instant of zero stands for none, and a job that must start within no time may start at this very instant.
  local blob = seq .. now8 .. expires .. tail
  call('HSET', K.SPEC, id, blob)
  event(E.ENQUEUED, id)
  local j = job.of(id, blob, nil)
  j.due = parts.start and job.due_of(parts.start, parts.start_at) or now8
  -- Some modes give the start.
  if parts.dedup_mode == M.DEBOUNCE or parts.dedup_mode == M.COALESCE then
    j.due = (parts.dedup_count or 2) > 1 and after(now, parts.dedup_span) or now8
  end
  if is_pending then
    j.state = BLOCKED
    job.stand(j)
    return '\0'
  end
  if number(j.due) > now then
    j.state = DELAYED
    job.stand(j)
    return '\0'
  end
  job.wait(j)
  if j.slot == LANE then
    call('ZADD', K.LINE, lanes.score(job.lane(j), j.priority), j.member)
  else
    job.stand(j)
  end
  return '\0'
end
