-- Takes permits of a limiter, if they may be had. A limiter's keys are these two, and no queue's.
--
-- Arguments: the clock's reading, or ''; the call's number and the lowest one not acknowledged, or '' and '';
-- how many permits; the limit, and the bounds (see limiter.lua).
-- Answer: 1 and how many more may be had; or 0, how many may be had, and for how long to wait (8 bytes); or 2 and the
-- limiter's time (8 bytes), if no bound covers it.
-- Errors: FERROQ_CORRUPT.
-- Work: bounded by the 128 groups of a limiter, and by what the call acknowledges.
local ANSWERS_KEPT_MS = 600000

local number_of_call = ARGV[2]
if number_of_call ~= '' then
  local kept = call('ZRANGEBYSCORE', KEYS[2], number_of_call, number_of_call, 'LIMIT', 0, 1)
  if kept[1] then
    return { 1, (unpack_bytes('>I4', kept[1], 9)) }
  end
end
local refused = limiter.read(ARGV[1])
if refused then
  return refused
end
local permits = tonumber(ARGV[4])
local bound = limiter.bound(ARGV[5], 6)
if not bound then
  return limiter.not_covered()
end
local free = rate.free(limiter.groups, bound, limiter.now)
local granted = permits <= free
local groups = granted and rate.take(limiter.groups, bound, limiter.now, permits) or limiter.groups
if granted or limiter.stepped_back then
  local gone_at = math.min(rate.idle_at(groups, bound, limiter.now) + LAG_MAX, EXACT_MAX)
  -- The server drops it by its own clock; a state that outlives its time is as if it had never been.
  local left_ms = string.format('%.0f', math.max(math.ceil((gone_at - limiter.clock) / 1000), 1))
  call('SET', KEYS[1], pack('>i8', gone_at) .. rate.write(groups), 'PX', left_ms)
end
if not granted then
  return limiter.refusal(bound, free, permits)
end
if number_of_call ~= '' then
  call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[3])
  call('ZADD', KEYS[2], number_of_call, pack('>I8I4', tonumber(number_of_call), free - permits))
  call('PEXPIRE', KEYS[2], ANSWERS_KEPT_MS)
end
return { 1, free - permits }
