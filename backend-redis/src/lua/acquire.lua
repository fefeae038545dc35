-- Takes permits of a limiter, if they may be had. A limiter's keys are these two, and no queue's.
--
-- Arguments: the clock's reading, or ''; the call's number and the lowest one not acknowledged (8 bytes each), or '' and '';
-- how many permits; the limit, and the bounds (see limiter.lua).
-- Answer: 1 and how many more may be had; or 0, how many may be had, and for how long to wait (8 bytes); or 2 and the
-- limiter's time (8 bytes), if no bound covers it.
-- Errors: FERROQ_CORRUPT.
-- Work: bounded by the 128 groups of a limiter, and by the session's open calls.
local ANSWERS_KEPT_MS = 600000
local ANSWER_BYTES = 12

local kept = {}
local answers = call('GET', KEYS[2])
if answers then
  local low = ARGV[3] ~= '' and number(ARGV[3]) or 0
  for i = 1, #answers - ANSWER_BYTES + 1, ANSWER_BYTES do
    local of = sub(answers, i, i + 7)
    if of == ARGV[2] then
      return { 1, (unpack_bytes('>I4', answers, i + 8)) }
    end
    if number(of) >= low then
      kept[#kept + 1] = sub(answers, i, i + ANSWER_BYTES - 1)
    end
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
local answer
if granted then
  rate.take(limiter.groups, bound, limiter.now, permits)
  answer = { 1, free - permits }
else
  answer = limiter.refusal(bound, permits)
end
if granted or limiter.stepped_back then
  local gone_at = math.min(rate.idle_at(limiter.groups, bound, limiter.now) + LAG_MAX, EXACT_MAX)
  -- The server drops it by its own clock; a state that outlives its time is as if it had never been.
  local left_ms = string.format('%.0f', math.max(math.ceil((gone_at - limiter.clock) / 1000), 1))
  call('SET', KEYS[1], pack('>i8', gone_at) .. rate.write(limiter.groups), 'PX', left_ms)
end
if granted and ARGV[2] ~= '' then
  kept[#kept + 1] = ARGV[2] .. pack('>I4', answer[2])
  call('SET', KEYS[2], concat(kept), 'PX', ANSWERS_KEPT_MS)
end
return answer
