-- Lanes: a queue's jobs by tenant, user or platform, served in turn, and the limits that hold them back, as
-- docs/contract.md has it under "Lanes" and "Limits". The score of a job in line is its lane's number times 256, and its
-- priority; the default lane's number is 0. As long as a queue has jobs of the default lane only and no rules, nothing is kept
-- about lanes.
--
-- `lanes` has an entry per lane with jobs in line: number (6), standing (1), what is left of its turn (4; all ones before it
-- began), until when it is held (8), turn (6); and while its gate holds it, when the first of its line came due (8), and how many
-- jobs open that (4). `ring` has the lanes in the ring by turn, `aside` all others by turn; of these, `held` has those that
-- wait for an instant, by that, as turn (6) and name, and `parked` those that wait for their class, as class, a zero byte (so
-- that classes stand in the order of their names), turn (6) and name. `usage` has what is remembered of starts: the end of
-- that (8) and the groups (see rate.lua), under 'q' for the queue, 'c' and a class, 'l' and a lane; and how many are Active,
-- under 'A' and a class, 'a' and a lane, and 'n' for all lanes with a name. `fades` has the starts of classes and lanes by their end.
local STANDS = { RING = 0, HELD = 1, PARKED = 2, CLOSED = 3 }
local CREDIT_FULL = 4294967295
local LANES_SET_ASIDE_MAX, LANES_BACK_MAX = 100, 1000
-- No window of a calendar is longer than two days.
local CALENDAR_WINDOW_MAX = 172800000000

local known, count, usage = {}, before.lanes, {}
local never = math.huge

-- Looks at the keys that only queues with lanes have, and at what else is kept of lanes.
function lanes.look_at_keys()
  call('ZCARD', K.RING)
  call('ZCARD', K.ASIDE)
  call('ZCARD', K.HELD)
  call('ZCARD', K.PARKED)
  call('HLEN', K.USAGE)
  call('ZCARD', K.FADES)
  local m = call('HMGET', K.META, 'turns', 'lane_last', 'reopen_to', 'windows', 'calendars')
  meta.turns, meta.lane_last, meta.reopen_to = tonumber(m[1]) or 0, tonumber(m[2]) or 0, tonumber(m[3]) or 0
  meta.windows, meta.calendars = m[4], m[5]
end

-- Settings are kept as the client's JSON. A value that is not there may be left out, or null.
local function given(value)
  if value ~= cjson.null then
    return value
  end
end

local function rate_from(said)
  if not said then
    return said
  end
  local window, calendar = given(said.per.sliding), given(said.per.calendar)
  return { limit = said.limit, window = window, calendar = calendar and calendar.unit .. ' ' .. calendar.zone }
end

local function limits_of(said)
  said = given(said) or {}
  return { concurrency = given(said.concurrency), rate = rate_from(given(said.rate)) }
end

-- What a policy says: nothing, false for no limit, or the limit.
local function say(said)
  if said == 'unlimited' then
    return false
  end
  return type(said) == 'table' and said.limit or nil
end

local function policy_from(said)
  return { weight = given(said.weight), concurrency = say(said.concurrency), rate = rate_from(say(said.rate)),
    batch = say(said.batch), paused = said.paused }
end

-- What the rules say, once they are needed.
local rules
local function rules_now()
  if not rules then
    local said = meta.rules and cjson.decode(meta.rules)
    rules = said and { quantum = said.lanes.quantum, limits = limits_of(said.limits), every = policy_from(said.lanes.every),
      classes = {} } or { quantum = 8, limits = {}, every = {}, classes = {} }
    for class, policy in pairs(said and said.lanes.classes or {}) do
      local total = limits_of(policy.total)
      rules.classes[class] = { each = policy_from(policy.each), total = (total.concurrency or total.rate) and total }
    end
  end
  return rules
end

local policies = {}
local function policy_of(name)
  if before.policies > 0 and policies[name] == nil then
    local json = call('HGET', K.POLICIES, name)
    policies[name] = json and policy_from(cjson.decode(json)) or false
  end
  return policies[name]
end

local function class_of(name)
  return string.match(name, '^([^/]+)/')
end

local function learn(name, bytes)
  known[name] = false
  if bytes then
    local number, standing, credit, till, turn = unpack_bytes('>I6BI4i8I6', bytes)
    local l = { number = number, standing = standing, credit = credit, till = till, turn = turn }
    if #bytes >= 37 then
      l.since, l.wants = unpack_bytes('>i8I4', bytes, 26)
    end
    known[name] = l
  end
end

local function entry_of(name)
  if known[name] == nil then
    learn(name, call('HGET', K.LANES, name))
  end
  return known[name]
end

local function save(name, l)
  local gated = l.wants and pack('>i8I4', l.since, l.wants) or ''
  call('HSET', K.LANES, name, pack('>I6BI4i8I6', l.number, l.standing, l.credit, l.till, l.turn) .. gated)
end

local function parked_as(name, l)
  return class_of(name) .. '\0' .. pack('>I6', l.turn) .. name
end

local function step_out(name, l)
  if l.standing == STANDS.RING then
    call('ZREM', K.RING, name)
    return
  end
  call('ZREM', K.ASIDE, name)
  if l.standing == STANDS.HELD then
    call('ZREM', K.HELD, pack('>I6', l.turn) .. name)
  elseif l.standing == STANDS.PARKED then
    call('ZREM', K.PARKED, parked_as(name, l))
  end
end

-- Puts a lane at the end of the ring, with a new turn.
local function rejoin(name, l)
  step_out(name, l)
  meta.turns = meta.turns + 1
  l.turn, l.credit, l.standing, l.till, l.wants = meta.turns, CREDIT_FULL, STANDS.RING, 0, nil
  call('ZADD', K.RING, string.format('%.0f', l.turn), name)
  save(name, l)
end

local function join(name)
  if count == 1 then
    -- A lane alone has its full credit, and now it no longer is.
    local other = call('HKEYS', K.LANES)[1]
    local l = entry_of(other)
    if l and l.credit ~= CREDIT_FULL then
      l.credit = CREDIT_FULL
      save(other, l)
    end
  end
  count = count + 1
  local number = 0
  if name ~= '' then
    meta.lane_last = meta.lane_last + 1
    number = meta.lane_last
  end
  local l = { number = number, standing = STANDS.CLOSED, credit = CREDIT_FULL, till = 0, turn = 0 }
  known[name] = l
  rejoin(name, l)
  return l
end

-- A named lane, or rules, where there was neither so far: from here on the default lane is one like others.
local function meet()
  if is_laned() then
    return
  end
  lanes.look_at_keys()
  lanes_met = true
  if lanes.default_waits() then
    join('')
  end
end

-- A job comes to the line of a lane that its gate holds. Once there are as many as it waits for, or one that has a batch or
-- came due before the others, the lane takes its turn. Jobs that are `put` are written later, with others; of new ones
-- there is no table yet.
local function arrive(name, l, j, is_put)
  if l.put_line ~= put_line then
    l.put_line, l.put = put_line, 0
  end
  l.in_line = (l.in_line or call('ZCOUNT', K.LINE, l.number * 256, l.number * 256 + 255) + l.put) + 1
  if is_put then
    l.put = l.put + 1
  end
  local is_urgent = not j and now < l.since
  if j and not j.was_in_line then
    is_urgent = j.batch or lanes.came_due(j.seq, number(j.due), lanes.set_back()) < l.since
  end
  if is_urgent or l.in_line >= l.wants then
    rejoin(name, l)
  end
end

-- The score of a job that comes to stand in its lane's line.
function lanes.score(name, priority, j, is_put)
  if name ~= '' then
    meet()
  elseif not is_laned() then
    return priority
  end
  local l = entry_of(name) or join(name)
  if l.wants then
    arrive(name, l, j, is_put)
  end
  return l.number * 256 + priority
end

lanes.meet = meet

-- Whether a job of the default lane stands in line, of those already written.
function lanes.default_waits()
  return #put_line > 0 or call('ZCOUNT', K.LINE, 0, 255) > 0
end

local function set_aside(name, l, standing, till)
  step_out(name, l)
  l.standing, l.till = standing, till or 0
  local turn = string.format('%.0f', l.turn)
  call('ZADD', K.ASIDE, turn, name)
  if standing == STANDS.HELD then
    call('ZADD', K.HELD, string.format('%.0f', l.till), pack('>I6', l.turn) .. name)
  elseif standing == STANDS.PARKED then
    call('ZADD', K.PARKED, 0, parked_as(name, l))
  end
  save(name, l)
end

local function is_empty(l)
  return call('ZCOUNT', K.LINE, l.number * 256, l.number * 256 + 255) == 0
end

local function forget(name, l)
  step_out(name, l)
  call('HDEL', K.LANES, name)
  known[name] = false
  count = count - 1
end

-- Lanes that jobs left in this turn, apart from visits: the empty ones are forgotten before anything else takes its place in line.
local left = {}
function lanes.left(name)
  left[name] = true
  if known[name] then
    known[name].in_line = nil
  end
end

function lanes.forget_empty()
  for name in pairs(left) do
    local l = entry_of(name)
    if l and is_empty(l) then
      forget(name, l)
    end
  end
  left = {}
end

function lanes.close()
  lanes.forget_empty()
  if meta.rules or before.policies > 0 then
    return
  end
  -- Nobody asks any more how many are Active; they are counted down to the last, so that nothing is left of them.
  if meta.counted and call('HEXISTS', K.USAGE, 'n') == 0 then
    meta.counted = false
    call('HDEL', K.META, 'counted')
  end
  if count == 1 then
    local l = entry_of('')
    -- One that is set aside is so until a claim brings it back.
    if l and l.standing == STANDS.RING then
      forget('', l)
    end
  end
end

-- Terms of a lane: what its own policy, its class's and the one for every lane come to.
local function terms_of(name)
  local r, class = rules_now(), class_of(name)
  local of_class = class and r.classes[class]
  local own = policy_of(name)
  local said = { own or {}, of_class and of_class.each or {}, r.every }
  local terms = { paused = false, total = of_class and of_class.total, class = class }
  local weight
  for i = 1, 3 do
    local s = said[i]
    weight = weight or s.weight
    -- Nothing said is left out; no limit is false.
    if terms.concurrency == nil then
      terms.concurrency = s.concurrency
    end
    if terms.rate == nil then
      terms.rate = s.rate
    end
    if terms.batch == nil then
      terms.batch = s.batch
    end
    terms.paused = terms.paused or s.paused
  end
  terms.turn_jobs = math.max(math.min(r.quantum * (weight or 1), CREDIT_FULL), 1)
  return terms
end

-- A rate's bound now: any window, or the calendar's, which the client computed.
local windows
local function bound_of(given)
  local bound = { limit = given.limit }
  if given.window then
    bound.window = given.window
    return bound
  end
  windows = windows or cjson.decode(meta.windows)
  local list = windows[given.calendar]
  for i = 1, #list - 1 do
    if list[i] <= now and now < list[i + 1] then
      bound.first, bound.last = list[i], list[i + 1]
    end
  end
  return bound
end

-- What is remembered under a field of `usage`.
local function starts_of(field)
  local u = usage[field]
  if not u then
    local bytes = call('HGET', K.USAGE, field)
    u = { till = 0, groups = rate.read('') }
    if bytes and #bytes >= 8 and number(bytes) > now then
      u.till, u.groups = number(bytes), rate.read(sub(bytes, 9)) or rate.read('')
    end
    usage[field] = u
  end
  return u
end

-- How much may start under limits, and when something may, if nothing may now and only the rate is in the way.
local function room_of(limits, active, field)
  local slots = limits.concurrency and math.max(limits.concurrency - active, 0) or CREDIT_FULL
  if not limits.rate then
    return slots, nil
  end
  local groups, bound = starts_of(field).groups, bound_of(limits.rate)
  local may = rate.free(groups, bound, now)
  local free = math.min(math.max(may, 0), slots)
  return free, free == 0 and slots > 0 and rate.retry_at(groups, bound, now, may, 1) or nil
end

local function note_starts(limits, field, n)
  if not limits.rate then
    return
  end
  local u, bound = starts_of(field), bound_of(limits.rate)
  u.groups = rate.take(u.groups, bound, now, n)
  u.till = rate.idle_at(u.groups, bound, now)
  call('HSET', K.USAGE, field, pack('>i8', u.till) .. rate.write(u.groups))
  if field ~= 'q' then
    call('ZADD', K.FADES, string.format('%.0f', u.till), field)
  end
end

local function counted(field)
  return tonumber(call('HGET', K.USAGE, field) or '0')
end

-- Jobs that this claim made Active are written when it is over.
local started, active_before = 0, nil
local function active_now()
  active_before = active_before or call('ZCARD', K.ACTIVE_SET)
  return active_before + started
end

local function room_of_queue()
  return room_of(rules_now().limits, active_now(), 'q')
end

local function room_of_lane(name, terms)
  local active = 0
  if terms.concurrency then
    active = name == '' and active_now() - counted('n') or counted('a' .. name)
  end
  return room_of(terms, active, 'l' .. name)
end

local function room_of_class(class, total)
  return room_of(total or {}, total and total.concurrency and counted('A' .. class) or 0, 'c' .. class)
end

-- How much of a lane may start under every limit.
local function room_for(name, terms)
  local free = math.min(room_of_queue(), (room_of_lane(name, terms)))
  return terms.total and math.min(free, (room_of_class(terms.class, terms.total))) or free
end

-- Takes note of starts in a lane, and of jobs that became Active.
local function note(name, terms, n)
  started = started + n
  note_starts(rules_now().limits, 'q', n)
  note_starts(terms, 'l' .. name, n)
  if terms.total then
    note_starts(terms.total, 'c' .. terms.class, n)
  end
  lanes.count(name, n)
end

-- So many jobs of this lane became Active.
function lanes.count(name, n)
  if not meta.counted or name == '' then
    return
  end
  call('HINCRBY', K.USAGE, 'a' .. name, n)
  call('HINCRBY', K.USAGE, 'n', n)
  local class = class_of(name)
  if class then
    call('HINCRBY', K.USAGE, 'A' .. class, n)
  end
end

local function count_down(field)
  if call('HINCRBY', K.USAGE, field, -1) <= 0 then
    call('HDEL', K.USAGE, field)
  end
end

-- A job of this lane is Active no more.
function lanes.uncount(name)
  if not meta.counted or name == '' then
    return
  end
  count_down('a' .. name)
  count_down('n')
  local class = class_of(name)
  if class then
    count_down('A' .. class)
  end
end

-- Whether it matters to any lane that a job of it leaves Active: it is counted, or the lane may wait for that.
function lanes.wait_for_ends()
  return meta.counted or call('ZCARD', K.ASIDE) > 0
end

-- A job of this lane has left Active: if the lane waited for that, it takes its turn again.
function lanes.released(name)
  lanes.uncount(name)
  hint_work = true
  local l = entry_of(name)
  if l and l.standing == STANDS.CLOSED then
    rejoin(name, l)
  end
end

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

-- The number of a lane that jobs stand in; nil if none do.
function lanes.number(name)
  if name == '' then
    return 0
  end
  local l = entry_of(name)
  return l and l.number
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

-- Whether the queue has no room; and when it has some again, if only its rate is in the way.
function lanes.is_full()
  local free, opens = room_of_queue()
  return free == 0, opens
end

-- Whether nothing but the queue's limits holds a job of this lane back; and when nothing will, if that is only a matter of time.
function lanes.may_start(name)
  local terms = terms_of(name)
  if terms.paused then
    return false, nil
  end
  local free, opens = room_of_lane(name, terms)
  local of_class, class_opens = CREDIT_FULL, nil
  if terms.total then
    of_class, class_opens = room_of_class(terms.class, terms.total)
  end
  if free > 0 then
    return of_class > 0, class_opens
  elseif of_class == 0 then
    opens = opens and class_opens and math.max(opens, class_opens)
  end
  return false, opens
end

function lanes.note_start(name)
  note(name, terms_of(name), 1)
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

-- From now on it is known how many jobs of each lane are Active.
function lanes.count_active()
  if meta.counted then
    return
  end
  meta.counted = true
  call('HSET', K.META, 'counted', '1')
  local members = call('ZRANGE', K.ACTIVE_SET, 0, -1)
  for i = 1, #members do
    local parts = job.parts_of(call('HGET', K.SPEC, sub(members[i], 8)) or '')
    lanes.count(parts and parts.lane or '', 1)
  end
end

-- The calendars that the settings and lanes' own policies name are kept apart, so that neither drops the other's; an exchange
-- reads them together.
local function join_calendars()
  local said = call('HMGET', K.META, 'said_calendars', 'lane_calendars')
  local named, known = {}, {}
  for i = 1, 2 do
    for _, calendar in ipairs(cjson.decode(said[i] or '[]')) do
      if not known[calendar] then
        named[#named + 1], known[calendar] = calendar, true
      end
    end
  end
  meta.calendars = #named > 0 and cjson.encode(named) or ''
  call('HSET', K.META, 'calendars', meta.calendars)
end

-- The settings name these calendars now, as JSON.
function lanes.name_calendars(said)
  call('HSET', K.META, 'said_calendars', said)
  join_calendars()
end

-- One more lane's own policy names a calendar, or '' for none. With no such policy left, none is named.
function lanes.name_calendar(calendar)
  if before.policies == 0 then
    call('HDEL', K.META, 'lane_calendars')
  elseif calendar ~= '' then
    local named = cjson.decode(call('HGET', K.META, 'lane_calendars') or '[]')
    for i = 1, #named do
      if named[i] == calendar then
        return
      end
    end
    named[#named + 1] = calendar
    call('HSET', K.META, 'lane_calendars', cjson.encode(named))
  else
    return
  end
  join_calendars()
end

-- Whether the windows that the client computed hold the present, for every calendar that is named.
function lanes.are_windows_known()
  local named = cjson.decode(meta.calendars)
  windows = windows or (meta.windows and cjson.decode(meta.windows) or {})
  for i = 1, #named do
    local list = windows[named[i]]
    if not list or now < list[1] or now >= list[#list] then
      return false
    end
  end
  return true
end

-- The rules, or a lane's own policy, as the client's JSON: with the first gate there may be batches from here on.
function lanes.note_gates(said)
  if not meta.batches and string.find(said, '"batch":{', 1, true) then
    look_at_batch_keys()
    meta.batches = 0
    call('HSET', K.META, 'batches', 0)
  end
end

-- Stores a lane's own policy, as the client's JSON, or '' to remove it.
function lanes.set_policy(name, policy)
  local was = call('HGET', K.POLICIES, name) or ''
  if policy ~= '' then
    meet()
    lanes.note_gates(policy)
    call('HSET', K.POLICIES, name, policy)
  else
    call('HDEL', K.POLICIES, name)
  end
  before.policies = call('HLEN', K.POLICIES)
  if was ~= policy then
    lanes.reopen_lane(name)
  end
end

-- Throws away starts of classes and lanes that no longer count.
function lanes.fade(max)
  local over = call('ZRANGEBYSCORE', K.FADES, '-inf', string.format('%.0f', now), 'LIMIT', 0, max)
  many('HDEL', K.USAGE, over, 1)
  many('ZREM', K.FADES, over, 1)
end

-- Starts that were later than now count as of now: until when they count then, and the groups, which are changed; nothing
-- if there are none.
local function anchored(till, groups)
  local last, later = groups[#groups - 1], 0
  if not last or last <= now then
    return nil
  end
  while groups[#groups - 1] and groups[#groups - 1] > now do
    later = later + groups[#groups]
    groups[#groups], groups[#groups - 1] = nil, nil
  end
  groups[#groups + 1], groups[#groups + 2] = now, later
  return math.min(till, now + math.max(till - last, CALENDAR_WINDOW_MAX))
end

local function save_starts(field, till, groups)
  call('HSET', K.USAGE, field, pack('>i8', till) .. rate.write(groups))
  if field ~= 'q' then
    call('ZADD', K.FADES, string.format('%.0f', till), field)
  end
end

-- Takes in starts of a dump, where none that count are remembered.
function lanes.restore_starts(field, bytes)
  local till, groups = number(bytes), rate.read(sub(bytes, 9)) or rate.read('')
  till = anchored(till, groups) or till
  if till > now and starts_of(field).till <= now then
    save_starts(field, till, groups)
  end
end

-- The clock stepped back: starts that were later than now count as of now, and what was forgotten stays so.
function lanes.step_back()
  local all = call('HGETALL', K.USAGE)
  for i = 1, #all, 2 do
    local field, bytes = all[i], all[i + 1]
    local kind = sub(field, 1, 1)
    if (field == 'q' or kind == 'c' or kind == 'l') and #bytes >= 8 then
      local till, groups = number(bytes), rate.read(sub(bytes, 9)) or rate.read('')
      if till <= meta.last then
        call('HDEL', K.USAGE, field)
      else
        till = anchored(till, groups)
        if till then
          save_starts(field, till, groups)
        end
      end
    end
  end
  usage = {}
  lanes.reopen()
end

-- Rules changed: every lane that is set aside now is to come back.
function lanes.reopen()
  meta.reopen_to = meta.turns
end

function lanes.reopen_lane(name)
  local l = entry_of(name)
  if l and l.standing ~= STANDS.RING then
    rejoin(name, l)
  end
end
