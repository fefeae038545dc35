-- Rate limits, as ferroq_core::policy::rate decides them. A state is groups of past starts: the time of a group's last start
-- (8 bytes) and how many there were (4 bytes), in the order of time. A bound is a limit and a span: any `window`
-- microseconds, or the calendar's window from `first` up to `last`.
local function make_rate()
  local rate = {}

  local GROUP_BYTES = 12
  local GROUPS_MAX = 128
  local LAG_MAX = 60000000

  -- The groups, or nothing if the bytes are no state.
  function rate.read(bytes)
    if #bytes % GROUP_BYTES ~= 0 then
      return nil
    end
    local groups = { at = {}, count = {} }
    for i = 1, #bytes / GROUP_BYTES do
      local at, count = unpack_bytes('>i8I4', bytes, (i - 1) * GROUP_BYTES + 1)
      groups.at[i], groups.count[i] = at, count
    end
    return groups
  end

  function rate.write(groups)
    local parts = {}
    for i = 1, #groups.at do
      parts[i] = pack('>i8I4', groups.at[i], groups.count[i])
    end
    return concat(parts)
  end

  -- A limiter's own time: its last start is the time last stored. A clock that stepped back by a minute or more is followed,
  -- and starts of later times count as of now; answers the time and whether that changed the groups.
  function rate.time(groups, clock)
    local at, count = groups.at, groups.count
    local n = #at
    local last = at[n]
    if not last or clock >= last then
      return clock, false
    elseif last - clock < LAG_MAX then
      return last, false
    end
    local later = 0
    while n > 0 and at[n] > clock do
      later = later + count[n]
      at[n], count[n] = nil, nil
      n = n - 1
    end
    at[n + 1], count[n + 1] = clock, later
    return clock, true
  end

  -- Whether a start at `at` counts now.
  local function counts(bound, at, now)
    if bound.window then
      return now < at + bound.window
    end
    return bound.first <= at
  end

  -- When a start at `at`, which counts, no longer does.
  local function forgets(bound, at)
    return bound.window and at + bound.window or bound.last
  end

  function rate.free(groups, bound, now)
    local used = 0
    for i = 1, #groups.at do
      if counts(bound, groups.at[i], now) then
        used = used + groups.count[i]
      end
    end
    return bound.limit - used
  end

  -- When `n` more may start; `n` is not more than the limit, and more than are free.
  function rate.retry_at(groups, bound, now, n)
    local free = rate.free(groups, bound, now)
    for i = 1, #groups.at do
      if counts(bound, groups.at[i], now) then
        free = free + groups.count[i]
        if free >= n then
          return forgets(bound, groups.at[i])
        end
      end
    end
    return now
  end

  -- Takes `n` starts, 1 or more, that are free.
  function rate.take(groups, bound, now, n)
    local at, count = {}, {}
    for i = 1, #groups.at do
      if counts(bound, groups.at[i], now) then
        at[#at + 1], count[#count + 1] = groups.at[i], groups.count[i]
      end
    end
    local last = #at
    if last > 0 then
      local joined = n
      if bound.window and at[last] ~= now then
        joined = math.min(n, math.max(math.ceil(bound.limit / 100) - count[last], 0))
      end
      if joined > 0 then
        at[last], count[last] = now, count[last] + joined
        n = n - joined
      end
    end
    if n > 0 then
      at[#at + 1], count[#count + 1] = now, n
    end
    while #at > GROUPS_MAX do
      count[2] = count[1] + count[2]
      table.remove(at, 1)
      table.remove(count, 1)
    end
    groups.at, groups.count = at, count
  end

  -- When nothing will count any more.
  function rate.idle_at(groups, bound, now)
    local last = groups.at[#groups.at]
    return last and forgets(bound, last) or now
  end
  return rate
end
