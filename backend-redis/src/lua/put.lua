-- Enqueue: new jobs get their key, their seq and their place, or meet the job that holds their key (see meet.lua). Plain ones
-- (at once, in line, with no key) are collected and written together.
local put_specs, put_seen = {}, {}
local put_times = nil

local function flush_puts()
  many('HSET', K.SPEC, put_specs, 2)
  many('ZADD', K.LINE, put_line, 2)
  if #put_specs > 0 then
    put_specs, put_line = {}, {}
  end
end

-- Traits under which a job may still be written together with others: those that only its readers care about.
local function is_plain(traits)
  if traits == 0 then
    return true
  end
  return not (has(traits, T.DEDUP) or has(traits, T.EXPIRES) or has(traits, T.PLACE) or has(traits, T.BUDGETS))
end

-- The lane of a plain job: before it comes nothing but what is to be kept.
local function plain_lane(tail, traits)
  if not has(traits, T.LANE) then
    return ''
  end
  local at = 8 + byte(tail, 3)
  if has(traits, T.KEEP) then
    at = at + 27
  end
  return sub(tail, at + 1, at + byte(tail, at))
end

parts_to_open[#parts_to_open + 1] = function()
  -- Inserts a job that brings along more than its readers care about.
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
end

-- Inserts one job; `tail` is its spec from the priority on. `is_there` says whether the id is taken. Answers '\0', or
-- '\1' and its id if it is there, or what `job.meet` answers if its key is held.
local function put(id, tail, is_there)
  if is_there or put_seen[id] then
    return '\1' .. id
  end
  put_times = put_times or (now8 .. NONE8)
  local traits = byte(tail, 2)
  if is_plain(traits) then
    put_seen[id] = true
    meta.seq = meta.seq + 1
    local seq = pack('>I7', meta.seq + SEQ_BIAS)
    local n = #put_specs
    put_specs[n + 1] = id
    put_specs[n + 2] = seq .. put_times .. tail
    local name = traits == 0 and '' or plain_lane(tail, traits)
    put_line[n + 1] = (name ~= '' or is_laned()) and lanes.score(name, byte(tail, 1), false, true) or byte(tail, 1)
    put_line[n + 2] = seq .. id
    event(E.ENQUEUED, id)
    return '\0'
  end
  return job.put(id, tail)
end
