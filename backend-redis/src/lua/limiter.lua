-- A question to a limiter, as `acquire` and `peek` ask it: KEYS[1] holds from when on it is as if it had never been (8 bytes),
-- and the state; KEYS[2] the answers that a session may ask for again, by the call's number.
local limiter = {}

-- The limiter's state at its own time. Answers an error to return, or nil.
function limiter.read(given)
  local clock = given ~= '' and tonumber(given)
  if not clock then
    local time = call('TIME')
    clock = time[1] * 1000000 + time[2]
  end
  limiter.clock = clock
  local stored = call('GET', KEYS[1]) or NONE8
  if #stored >= 8 then
    limiter.groups = rate.read(clock < number(sub(stored, 1, 8)) and sub(stored, 9) or '')
  end
  if not limiter.groups then
    return redis.error_reply('FERROQ_CORRUPT the state of a limiter is not what ferroq wrote; reset it')
  end
  limiter.now, limiter.stepped_back = rate.time(limiter.groups, clock)
  return nil
end

-- The bound that covers the limiter's time, of those given from ARGV[from] on: 's' and a window, or 'c' and any number of
-- windows, each as its first instant and the first one after it. Nothing if none does.
function limiter.bound(limit, from)
  local bound = { limit = tonumber(limit) }
  if ARGV[from] == 's' then
    bound.window = number(ARGV[from + 1])
    return bound
  end
  for i = from + 1, #ARGV, 2 do
    bound.first, bound.last = number(ARGV[i]), number(ARGV[i + 1])
    if bound.first <= limiter.now and limiter.now < bound.last then
      return bound
    end
  end
  return nil
end

-- Answers that no bound covers the time, and the time.
function limiter.not_covered()
  return { 2, pack('>i8', limiter.now) }
end

-- What is answered to a question that is refused.
function limiter.refusal(bound, free, permits)
  local at = rate.retry_at(limiter.groups, bound, limiter.now, free, permits)
  return { 0, math.max(free, 0), pack('>i8', math.min(at, EXACT_MAX) - limiter.now) }
end
