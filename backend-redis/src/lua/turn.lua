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
local before = { solo = 0, shelved = 0, delayed = 0, active = 0, tokens = 0, outbox = 0, lanes = 0, policies = 0, answers = 0 }
-- Whether jobs were moved one by one since, so that those counts may have changed; whether the turn met a lane with a name, in a
-- queue that had none; whether it sent something to another queue.
local moved, lanes_met, is_sent = false, false, false
-- Jobs that were pending and hold their key now, with that key, and numbers of batches that a job left for good; and those jobs
-- that have got their place.
local heirs, placed_heirs = {}, {}
-- Jobs that come to stand in line and are not written yet.
local put_line = {}

-- What there is to do with a job, a lane or a batch, apart from the steady state: made when the first of it is asked for, since
-- making a function takes the server about as long as a short command. `open` has what makes it.
local open = {}
local function made_by(name)
  return setmetatable({}, { __index = function(acts, act)
    setmetatable(acts, nil)
    local make = open[name]
    if make then
      make()
    end
    return acts[act]
  end })
end
local job, lanes, batches = made_by('job'), made_by('lanes'), made_by('batches')

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

-- The age and the count up to which records in a state are kept.
local function keep_of(state)
  local rule = meta.keep[state]
  if not rule then
    local name = state == FAILED and 'keep_failed' or 'keep_cancelled'
    local said = call('HMGET', K.META, name .. '_age', name)
    rule = { age = said[1] or state == FAILED and '604800000000' or '86400000000',
      count = tonumber(said[2] or state == FAILED and 100000 or 10000) }
    meta.keep[state] = rule
  end
  return rule
end

-- What the queue's settings and time are. Answers an error to return, or nil.
local function look(given)
  local m = call('HMGET', K.META, 'layout', 'last', 'attended', 'term_min', 'seq', 'paused', 'keep_completed_age', 'keep_completed',
    'events_kept', 'dead_letter', 'rules', 'counted', 'batches')
  if m[1] and m[1] ~= LAYOUT then
    return refuse('SCHEMA', 'this queue has layout ' .. m[1] .. ', and this library knows layout ' .. LAYOUT
      .. '; use the newer library that wrote it')
  end
  exists = m[1] and true or false
  meta.last, meta.attended, meta.term_min, meta.seq = tonumber(m[2]), tonumber(m[3]) or 0, tonumber(m[4]) or 0, tonumber(m[5]) or 0
  meta.last_seq, meta.last_term_min, meta.last_attended = meta.seq, meta.term_min, meta.attended
  meta.paused = m[6] == '1'
  meta.keep = { [COMPLETED] = { age = m[7] or '86400000000', count = tonumber(m[8] or 10000) } }
  meta.events_kept = m[9] or '10000'
  meta.dead_letter = m[10] and m[10] ~= '' and m[10]
  -- What is said of lanes and limits, as JSON; nothing is said as long as all of it is as it was at first.
  meta.rules = m[11] and m[11] ~= '' and m[11]
  meta.counted = m[12] == '1'
  -- The last number given to a batch; there is one once a gate was ever set.
  meta.batches = tonumber(m[13])
  local clock = tonumber(given)
  if given == '' then
    local time = call('TIME')
    clock = time[1] * 1000000 + time[2]
  end
  now = clock
  if meta.last and clock < meta.last and meta.last - clock < LAG_MAX then
    now = meta.last
  end
  now8 = pack('>i8', now)
  return nil
end

-- Whether anything is kept about lanes.
local function is_laned()
  return lanes_met or before.lanes > 0 or meta.rules or before.policies > 0 or meta.counted
end

-- Looks at the keys that only queues with batches have.
local function look_at_batch_keys()
  call('HLEN', K.BATCHES)
  call('ZCARD', K.FAILING)
end

-- Looks at every key that a script may write, so that a foreign one fails the call here. Most queues have no more than half of
-- them at a time, and one look tells that of a dozen.
local function look_at_keys()
  call('HLEN', K.SPEC)
  call('HLEN', K.RUN)
  call('ZCARD', K.LINE)
  before.active = call('ZCARD', K.ACTIVE_SET)
  call('ZCARD', K.COMPLETED_SET)
  call('XLEN', K.EVENTS)
  before.tokens = call('LLEN', K.WAKE)
  before.answers = call('ZCARD', K.ANSWERS)
  if call('EXISTS', K.NOTES, K.DELAYED_SET, K.FAILED_SET, K.CANCELLED_SET) > 0 then
    call('HLEN', K.NOTES)
    before.delayed = call('ZCARD', K.DELAYED_SET)
    call('ZCARD', K.FAILED_SET)
    call('ZCARD', K.CANCELLED_SET)
  end
  if call('EXISTS', K.SOLO_LINE, K.SHELVES, K.KINDS, K.BLOCKED_SET, K.DEDUP, K.HOLDS, K.OUTBOX, K.LEDGER, K.LANES, K.POLICIES) > 0 then
    before.solo = call('ZCARD', K.SOLO_LINE)
    before.shelved = call('ZCARD', K.SHELVES)
    call('HLEN', K.KINDS)
    call('ZCARD', K.BLOCKED_SET)
    call('HLEN', K.DEDUP)
    call('ZCARD', K.HOLDS)
    before.outbox = call('ZCARD', K.OUTBOX)
    call('HLEN', K.LEDGER)
    before.lanes = call('HLEN', K.LANES)
    before.policies = call('HLEN', K.POLICIES)
  end
  if is_laned() then
    lanes.look_at_keys()
  end
  if meta.batches then
    look_at_batch_keys()
  end
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
local function go_on()
  if meta.last and now < meta.last then
    job.extend_leases(nil)
    lanes.note_set_back(meta.last)
    -- Starts are remembered for a while where there are no lanes and rules any more.
    if is_laned() or call('HLEN', K.USAGE) > 0 then
      lanes.step_back()
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
  if gap * 2 > meta.term_min and job.extend_leases(gap) then
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
