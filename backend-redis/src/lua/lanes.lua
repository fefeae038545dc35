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

-- The number of a lane that jobs stand in; nil if none do.
function lanes.number(name)
  if name == '' then
    return 0
  end
  local l = entry_of(name)
  return l and l.number
end

-- Rules changed: every lane that is set aside now is to come back.
function lanes.reopen()
  meta.reopen_to = meta.turns
end
