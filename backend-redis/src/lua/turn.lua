-- A turn: one call's work on one queue. It begins with the layout's version, a look at every key (a key that belongs to
-- somebody else fails the call before anything is written), and storage time; it ends with pruning, one log entry and hints.
local now, now8
local meta = {}
local exists, created, attends = false, false, false
-- Events: kinds and ids in their order, runs of a kind together.
local ev_kind, ev_ids, ev_count, ev_parts = nil, nil, 0, {}
local hint_work, hint_control, hint_ended = false, false, {}
local added = { [COMPLETED] = 0, [FAILED] = 0, [CANCELLED] = 0 }
-- How many there were of some things before the turn changed anything.
local before = {}
-- Whether jobs were moved one by one since, so that those counts may have changed.
local moved = false

local function refuse(code, text)
  return redis.error_reply('FERROQ_' .. code .. ' ' .. text)
end

local function event_flush()
  if ev_kind then
    ev_parts[#ev_parts + 1] = char(ev_kind) .. pack('>I4', ev_count) .. concat(ev_ids)
    ev_kind = nil
  end
end

local function event(kind, id)
  if kind ~= ev_kind then
    event_flush()
    ev_kind, ev_ids, ev_count = kind, {}, 0
  end
  ev_count = ev_count + 1
  ev_ids[ev_count] = id
end

-- An event about the queue itself: its kind with no ids.
local function queue_event(kind)
  event_flush()
  ev_parts[#ev_parts + 1] = char(kind) .. '\0\0\0\0'
end

local META_FIELDS = { 'layout', 'last', 'attended', 'term_min', 'seq', 'paused', 'keep_completed_age', 'keep_completed',
  'keep_failed_age', 'keep_failed', 'keep_cancelled_age', 'keep_cancelled', 'events_kept', 'dead_letter',
  'rules', 'turns', 'lane_last', 'reopen_to', 'counted', 'windows', 'calendars', 'batches' }

local function clock_of(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- What the queue's settings and time are. Answers an error to return, or nil.
local function look(given)
  local m = call('HMGET', K.META, unpack(META_FIELDS))
  if m[1] and m[1] ~= LAYOUT then
    return refuse('SCHEMA', 'this queue has layout ' .. m[1] .. ', and this library knows layout ' .. LAYOUT
      .. '; use the newer library that wrote it')
  end
  exists = m[1] and true or false
  meta.last = tonumber(m[2])
  meta.attended = tonumber(m[3]) or 0
  meta.term_min = tonumber(m[4]) or 0
  meta.seq = tonumber(m[5]) or 0
  meta.paused = m[6] == '1'
  meta.keep = {
    [COMPLETED] = { age = m[7] or '86400000000', count = tonumber(m[8] or 10000) },
    [FAILED] = { age = m[9] or '604800000000', count = tonumber(m[10] or 100000) },
    [CANCELLED] = { age = m[11] or '86400000000', count = tonumber(m[12] or 10000) },
  }
  meta.events_kept = m[13] or '10000'
  -- What is said of lanes and limits, as JSON; nothing is said as long as all of it is as it was at first.
  meta.rules = m[15] and m[15] ~= '' and m[15]
  meta.turns, meta.lane_last, meta.reopen_to = tonumber(m[16]) or 0, tonumber(m[17]) or 0, tonumber(m[18]) or 0
  meta.counted, meta.windows, meta.calendars = m[19] == '1', m[20], m[21]
  -- The last number given to a batch; there is one once a gate was ever set.
  meta.batches = tonumber(m[22])
  meta.dead_letter = m[14] and m[14] ~= '' and m[14]
  local clock = clock_of(given)
  now = clock
  if meta.last and clock < meta.last and meta.last - clock < LAG_MAX then
    now = meta.last
  end
  now8 = pack('>i8', now)
  return nil
end

-- The same for the keys that only queues with lanes have.
local function look_at_lane_keys()
  call('ZCARD', K.RING)
  call('ZCARD', K.ASIDE)
  call('ZCARD', K.HELD)
  call('ZCARD', K.PARKED)
  call('HLEN', K.USAGE)
  call('ZCARD', K.FADES)
end

-- And for those that only queues with batches have.
local function look_at_batch_keys()
  call('HLEN', K.BATCHES)
  call('ZCARD', K.FAILING)
end

-- Looks at every key that a script may write, so that a foreign one fails the call here.
local function look_at_keys()
  call('HLEN', K.SPEC)
  call('HLEN', K.RUN)
  call('HLEN', K.NOTES)
  call('ZCARD', K.LINE)
  before.solo = call('ZCARD', K.SOLO_LINE)
  before.shelved = call('ZCARD', K.SHELVES)
  call('HLEN', K.KINDS)
  before.delayed = call('ZCARD', K.DELAYED_SET)
  call('ZCARD', K.BLOCKED_SET)
  before.active = call('ZCARD', K.ACTIVE_SET)
  call('ZCARD', K.COMPLETED_SET)
  call('ZCARD', K.FAILED_SET)
  call('ZCARD', K.CANCELLED_SET)
  call('HLEN', K.DEDUP)
  call('ZCARD', K.HOLDS)
  call('XLEN', K.EVENTS)
  before.tokens = call('LLEN', K.WAKE)
  before.outbox = call('ZCARD', K.OUTBOX)
  call('HLEN', K.LEDGER)
  before.lanes = call('HLEN', K.LANES)
  before.policies = call('HLEN', K.POLICIES)
  if before.lanes > 0 or meta.rules or before.policies > 0 then
    look_at_lane_keys()
  end
  if meta.batches then
    look_at_batch_keys()
  end
  call('ZCARD', K.ANSWERS)
end

-- Gives the leases of Active jobs their full term again. After an outage only those that it hurt, which can only grow.
-- This walks all Active jobs, which the workers' concurrency bounds.
local function extend_leases(gap)
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

-- Begins a turn that may write: looks, and writes nothing. Answers an error to return, or nil.
local function begin(given)
  local refused = look(given)
  if not refused then
    look_at_keys()
  end
  return refused
end

-- The first write of a turn, once it is clear that there will be one: storage time follows a clock that stepped back, and
-- every lease gets its full term again.
local on_step_back
local function go_on()
  if meta.last and now < meta.last then
    -- Starts are remembered for a while where there are no lanes and rules any more.
    local remembers = call('HLEN', K.USAGE) > 0
    extend_leases(nil)
    if on_step_back then
      on_step_back(remembers)
    end
    meta.attended = now
    queue_event(E.STEPPED_BACK)
  end
end

-- Attends to the Active jobs: after an outage, leases are extended before anything else can happen to them.
local function attend()
  go_on()
  attends = true
  if before.active == 0 then
    return
  end
  local gap = math.max(now - meta.attended, 0)
  meta.attended = now
  if gap * 2 > meta.term_min and extend_leases(gap) then
    queue_event(E.EXTENDED)
  end
end

-- Takes note of the term of a lease that begins now.
local function note_term(term)
  if call('ZCARD', K.ACTIVE_SET) == 0 then
    meta.term_min = term
  else
    meta.term_min = math.min(meta.term_min, term)
  end
end
