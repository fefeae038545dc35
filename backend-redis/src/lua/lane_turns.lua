-- Serving: lanes take their turns, those of which nothing may start are set aside, and come back.

-- So many lanes one claim sets aside, and so many of each sort it brings back.
local LANES_SET_ASIDE_MAX, LANES_BACK_MAX = 100, 1000

-- Brings back lanes that were set aside and need no longer be.
function lanes.bring_back()
  if meta.reopen_to > 0 then
    local old = call('ZRANGEBYSCORE', K.ASIDE, '-inf', string.format('%.0f', meta.reopen_to), 'LIMIT', 0, LANES_BACK_MAX + 1)
    if #old <= LANES_BACK_MAX then
      meta.reopen_to = 0
    end
    for i = 1, math.min(#old, LANES_BACK_MAX) do
      rejoin(old[i], entry_of(old[i]))
    end
  end
  local due = call('ZRANGEBYSCORE', K.HELD, '-inf', string.format('%.0f', now), 'LIMIT', 0, LANES_BACK_MAX)
  for i = 1, #due do
    local name = sub(due[i], 7)
    rejoin(name, entry_of(name))
  end
  lanes.each_parked_class(function(class, total)
    local free = math.min(room_of_class(class, total), LANES_BACK_MAX)
    if free > 0 then
      local parked = call('ZRANGEBYLEX', K.PARKED, '[' .. class .. '\0', '(' .. class .. '\1', 'LIMIT', 0, free)
      for i = 1, #parked do
        local name = sub(parked[i], #class + 8)
        rejoin(name, entry_of(name))
      end
    end
  end)
end

-- Classes with parked lanes, in the order of their names.
function lanes.each_parked_class(visit)
  local from = '-'
  while true do
    local first = call('ZRANGEBYLEX', K.PARKED, from, '+', 'LIMIT', 0, 1)[1]
    if not first then
      return
    end
    local class = string.match(first, '^%Z+')
    local of_class = rules_now().classes[class]
    visit(class, of_class and of_class.total)
    from = '(' .. class .. '\1'
  end
end

-- Whether the gate of a lane lets the job at the head of its line start. If it doesn't, the lane is held.
local function is_open(name, l, gate, member)
  local entry = call('HGET', K.RUN, sub(member, 8))
  if entry and is_entry(entry) and has(byte(entry, 36), FLAG_BATCH) then
    return true
  elseif call('ZCOUNT', K.LINE, l.number * 256, l.number * 256 + 255) >= gate.size then
    return true
  end
  local since = lanes.first_due(l.number, lanes.set_back())
  local opens = math.min(since + gate.max_wait, EXACT_MAX)
  if opens <= now then
    return true
  end
  l.wants, l.since, l.in_line = gate.size, since, nil
  set_aside(name, l, STANDS.HELD, opens)
  return false
end

-- Visits a lane that has a gate; answers what `look` does, and whether the lane was held.
local function visit_gated(name, l, gate, look, max, room)
  local seen, claimed, is_full = 0, 0, false
  while seen < max and claimed < room and not is_full do
    local head = call('ZRANGEBYSCORE', K.LINE, l.number * 256, l.number * 256 + 255, 'LIMIT', 0, 1)[1]
    if not head then
      break
    elseif not is_open(name, l, gate, head) then
      return seen, claimed, false, true
    end
    local more_seen, more_claimed
    more_seen, more_claimed, is_full = look(l.number, 1, 1, gate)
    seen, claimed = seen + more_seen, claimed + more_claimed
  end
  return seen, claimed, is_full, false
end

-- The next lanes of the ring: as many as are likely to be served for so many jobs.
local function next_lanes(jobs)
  local names = call('ZRANGE', K.RING, 0, math.ceil(jobs / rules_now().quantum))
  local entries = get_many(K.LANES, names)
  for i = 1, #names do
    if known[names[i]] == nil then
      learn(names[i], entries[i])
    end
  end
  return names
end

-- Serves the lanes in their turn. `look` looks at jobs of a line, up to so many, and claims up to so many; it answers how
-- many it looked at, how many it claimed, whether the answer is full, and whether the line is known to be empty.
function lanes.serve(ask, look)
  local looked_at = 0
  -- Lanes that come into the ring meanwhile come behind those that are in it.
  local next, at = {}, 1
  for _ = 1, ask.max_items + LANES_SET_ASIDE_MAX do
    if looked_at == ask.max_items or room_of_queue() == 0 then
      return
    end
    if not next[at] then
      next, at = next_lanes(ask.max_items - looked_at), 1
    end
    local name = next[at]
    if not name then
      return
    end
    at = at + 1
    local l, terms = entry_of(name), terms_of(name)
    local free, opens = room_of_lane(name, terms)
    if terms.paused then
      set_aside(name, l, STANDS.CLOSED)
    elseif free == 0 then
      set_aside(name, l, opens and STANDS.HELD or STANDS.CLOSED, opens)
    elseif terms.total and room_of_class(terms.class, terms.total) == 0 then
      set_aside(name, l, STANDS.PARKED)
    else
      local alone = count == 1
      if l.credit == CREDIT_FULL then
        l.credit = terms.turn_jobs
      end
      local credit = alone and ask.max_items or l.credit
      local max, room, is_held = math.min(credit, ask.max_items - looked_at), room_for(name, terms), false
      local seen, claimed, is_full, emptied
      if terms.batch then
        seen, claimed, is_full, is_held = visit_gated(name, l, terms.batch, look, max, room)
      else
        seen, claimed, is_full, emptied = look(l.number, max, room)
      end
      looked_at = looked_at + seen
      if claimed > 0 then
        note(name, terms, claimed)
      end
      if is_held then
        -- What is left of its turn goes with it.
      elseif emptied or is_empty(l) then
        forget(name, l)
      elseif count == 1 then
        l.credit = CREDIT_FULL
        save(name, l)
        at = at - 1
      else
        l.credit = math.max(l.credit - seen, 0)
        if l.credit == 0 then
          rejoin(name, l)
        else
          -- It still has its turn.
          save(name, l)
          at = at - 1
        end
      end
      if is_full then
        return
      end
    end
  end
end

-- Whether asking again at once may find a lane to serve, and when one can be served.
function lanes.look_ahead()
  local free, opens = room_of_queue()
  local to_serve = meta.reopen_to > 0 or call('ZCARD', K.RING) > 0
  local at = tonumber(call('ZRANGE', K.HELD, 0, 0, 'WITHSCORES')[2]) or never
  lanes.each_parked_class(function(class, total)
    local of_class, class_opens = room_of_class(class, total)
    to_serve = to_serve or of_class > 0
    at = math.min(at, class_opens or never)
  end)
  at = math.min(at, to_serve and opens or never)
  return to_serve and free > 0, at < never and at or nil
end
