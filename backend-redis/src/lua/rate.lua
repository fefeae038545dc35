-- Rate limits, as ferroq_core::policy::rate decides them. A state is groups of past starts: the time of a group's last start
-- (8 bytes) and how many there were (4 bytes), in the order of time; here the two in turn, in one list. A bound is a limit
-- and a span: any `window` microseconds, or the calendar's window from `first` up to `last`.
local GROUP_BYTES = 12
local GROUPS_MAX = 128

local rate = {}

-- The groups, or nothing if the bytes are no state. One call for all: they are read for every question.
function rate.read(bytes)
  local n = #bytes / GROUP_BYTES
  if n % 1 ~= 0 or n > GROUPS_MAX then
    return nil
  end
  local groups = { unpack_bytes('>' .. string.rep('i8I4', n), bytes) }
  groups[#groups] = nil
  return groups
end

function rate.write(groups)
  return pack('>' .. string.rep('i8I4', #groups / 2), unpack(groups))
end

-- A limiter's own time: its last start is the time last stored. A clock that stepped back by a minute or more is followed,
-- and starts of later times count as of now; answers the time and whether that changed the groups.
function rate.time(groups, clock)
  local n = #groups
  local last = groups[n - 1]
  if not last or clock >= last then
    return clock, false
  elseif last - clock < LAG_MAX then
    return last, false
  end
  local later = 0
  while n > 0 and groups[n - 1] > clock do
    later = later + groups[n]
    groups[n - 1], groups[n] = nil, nil
    n = n - 2
  end
  groups[n + 1], groups[n + 2] = clock, later
  return clock, true
end

-- Where the first group is that counts now. Those after it do as well.
local function first_counting(groups, bound, now)
  local at, last = 1, #groups
  if bound.window then
    while at < last and now >= groups[at] + bound.window do
      at = at + 2
    end
  else
    while at < last and groups[at] < bound.first do
      at = at + 2
    end
  end
  return at
end

-- When a start at `at`, which counts, no longer does.
local function forgets(bound, at)
  return bound.window and at + bound.window or bound.last
end

-- How many may start now; below zero if more have than may.
function rate.free(groups, bound, now)
  local used = 0
  for at = first_counting(groups, bound, now), #groups, 2 do
    used = used + groups[at + 1]
  end
  return bound.limit - used
end

-- When `n` more may start, where `free` are free: more than those, and not more than the limit.
function rate.retry_at(groups, bound, now, free, n)
  for at = first_counting(groups, bound, now), #groups, 2 do
    free = free + groups[at + 1]
    if free >= n then
      return forgets(bound, groups[at])
    end
  end
  return now
end

-- Takes `n` starts, 1 or more, that are free. Answers the groups that there are then.
function rate.take(groups, bound, now, n)
  local taken = { unpack(groups, first_counting(groups, bound, now)) }
  local last = #taken
  if last > 0 then
    local joined = n
    if bound.window and taken[last - 1] ~= now then
      joined = math.min(n, math.max(math.ceil(bound.limit / 100) - taken[last], 0))
    end
    if joined > 0 then
      taken[last - 1], taken[last] = now, taken[last] + joined
      n = n - joined
    end
  end
  if n > 0 then
    taken[last + 1], taken[last + 2] = now, n
  end
  while #taken / 2 > GROUPS_MAX do
    taken[4] = taken[2] + taken[4]
    table.remove(taken, 1)
    table.remove(taken, 1)
  end
  return taken
end

-- When nothing will count any more.
function rate.idle_at(groups, bound, now)
  local last = groups[#groups - 1]
  return last and forgets(bound, last) or now
end
