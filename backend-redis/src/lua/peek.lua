-- Looks at a limiter.
--
-- Arguments: the clock's reading, or ''; how many permits somebody might want; the limit, and the bounds (see limiter.lua).
-- Answer: as that of acquire, except that nothing is taken.
-- Errors: FERROQ_CORRUPT.
-- Work: bounded by the 128 groups of a limiter.
local refused = limiter.read(ARGV[1])
if refused then
  return refused
end
local permits = tonumber(ARGV[2])
local bound = limiter.bound(ARGV[3], 4)
if not bound then
  return limiter.not_covered()
end
local free = rate.free(limiter.groups, bound, limiter.now)
if permits <= free then
  return { 1, free }
end
return limiter.refusal(bound, free, permits)
