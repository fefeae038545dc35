-- What is known of a job and of all that may hold it back. What it comes to is decided by ferroq_core.
--
-- Arguments: the clock's reading, or ''; the id.
-- Answer: nothing if there is no such job. Otherwise storage time and that of the last write (8 bytes each); 1 if the queue is
--   paused, else 0; its settings as JSON, or ''; the own policy of the job's lane as JSON, or ''; who holds the job's dedup key
--   (16), or ''; how many jobs are Active of the queue, of the lane's class and of the lane, the latter two where that is kept;
--   how many stand in lanes, on shelves, and are Delayed; how many jobs are ahead of it in its line, and lanes in the ring; what
--   is remembered of starts of the queue, the class and the lane (see lanes.lua), or ''; who leads its batch (16), or ''; of a
--   job in a lane's line, where there ever was a gate: how many are in that, when the first of them came due (8), and 1 if the
--   job at its head has a batch, else 0 (of other jobs 0, '' and 0); and the record (see walk.lua).
-- Errors: FERROQ_SCHEMA.
-- Work: one job and its bytes, and the logarithm of the backlog.
local refused = look(ARGV[1])
if refused then
  return refused
end
local j = job.load(ARGV[2])
if not j then
  return {}
end
local parts = job.parts(j)
local lane = job.lane(j)
local class = string.match(lane, '^([^/]+)/')
-- What can't be read is taken for nothing; this only looks.
local function number_at(key, field)
  return tonumber(call('HGET', key, field) or '') or 0
end
local entry = call('HGET', K.LANES, lane)
entry = entry and #entry >= 25 and entry
local number_of_lane, standing, _, _, turn = unpack_bytes('>I6BI4i8I6', entry or string.rep('\0', 25))

-- How many are ahead of the job in the part of a set that begins at a score.
local function ahead_in(set, from)
  local first = call('ZCOUNT', set, '-inf', string.format('(%.0f', from))
  local seq = unpack_bytes('>I7', j.seq) - SEQ_BIAS
  return math.max(passed(set, string.format('%.0f', from + j.priority), seq) - 1 - first, 0)
end

local ahead, lanes_before = 0, 0
local in_lane, since, is_led = 0, '', 0
if j.state == WAITING then
  if j.slot == LANE then
    ahead = ahead_in(K.LINE, number_of_lane * 256)
    local in_ring = entry and standing == 0
    local low, high = number_of_lane * 256, number_of_lane * 256 + 255
    if meta.batches then
      in_lane = call('ZCOUNT', K.LINE, low, high)
      local steps = meta.last and now < meta.last
      since = pack('>i8', lanes.first_due(number_of_lane, steps and { lanes.set_back_from(meta.last) } or lanes.set_back()))
      local head = call('ZRANGEBYSCORE', K.LINE, low, high, 'LIMIT', 0, 1)[1]
      local run = head and call('HGET', K.RUN, sub(head, 8))
      is_led = run and is_entry(run) and has(byte(run, 36), FLAG_BATCH) and 1 or 0
    end
    lanes_before = call('ZCOUNT', K.RING, '-inf', in_ring and string.format('(%.0f', turn) or '+inf')
  elseif j.slot == SOLO then
    ahead = ahead_in(K.SOLO_LINE, 0)
  else
    ahead = ahead_in(K.SHELVES, number_at(K.KINDS, parts.kind) * 256)
  end
end

local batch = j.batch and call('HGET', K.BATCHES, j.batch) or ''
local active = call('ZCARD', K.ACTIVE_SET)
local active_of_lane = math.max(lane == '' and active - number_at(K.USAGE, 'n') or number_at(K.USAGE, 'a' .. lane), 0)
local active_of_class = class and math.max(number_at(K.USAGE, 'A' .. class), 0) or 0
local hold = parts.dedup_key and call('HGET', K.DEDUP, parts.dedup_key)
local reply = { pack('>i8i8', now, meta.last or now), meta.paused and 1 or 0, call('HGET', K.META, 'config') or '',
  call('HGET', K.POLICIES, lane) or '', hold and sub(hold, 1, 16) or '', active, active_of_class,
  active_of_lane, call('ZCARD', K.LINE), call('ZCARD', K.SHELVES), call('ZCARD', K.DELAYED_SET), ahead, lanes_before,
  call('HGET', K.USAGE, 'q') or '', class and call('HGET', K.USAGE, 'c' .. class) or '',
  call('HGET', K.USAGE, 'l' .. lane) or '', #batch == 49 and byte(batch) < 2 and sub(batch, 34) or '', in_lane, since, is_led }
add_record(reply, j, call('HGET', K.RUN, j.id))
return reply
