-- Limits: how much of a queue, a class and a lane may start now, and what is remembered and counted for that (`usage`, see
-- lanes.lua).

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
