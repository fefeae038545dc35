-- Batches: jobs of a lane that run together under the lease of one of them, as docs/contract.md has it under "Batches". The number
-- of its batch is in a job's entry (see record.lua), and the score of a member in `blocked`.
--
-- `batches` has an entry per batch that has not ended, by its number: standing (1: 0 open for members, 1 formed, 2 failing), how many
-- it may be (4), how many were gathered (4), the attempts, crashes and runs of its leader when it came to lead (4 each), those
-- that were spent before (4 each); then the leader (16), or of one that fails the kind of the error (1) and its text. `failing` has
-- the numbers of those that fail.

local FORMAT, FIXED, MOST = '>BI4I4I4I4I4I4I4I4', 33, 4294967295
local BATCH = { OPEN = 0, FORMED = 1, FAILING = 2 }
-- So many batches one sweep looks at to see whether they are whole.
local MEND_MAX = 20
local number_at = number

local known = {}
local function read(number)
  if known[number] == nil then
    local bytes, b = call('HGET', K.BATCHES, number), false
    if bytes and #bytes > FIXED then
      b = { before = {}, led_from = {} }
      b.stands, b.size, b.gathered, b.led_from[1], b.led_from[2], b.led_from[3], b.before[1], b.before[2], b.before[3] =
        unpack_bytes(FORMAT, bytes)
      if b.stands == BATCH.FAILING then
        b.error = { byte(bytes, FIXED + 1), sub(bytes, FIXED + 2) }
        b = b.error[1] <= X.QUARANTINE and b
      else
        b.leader = sub(bytes, FIXED + 1)
        b = #b.leader == 16 and b
      end
    end
    known[number] = b
  end
  return known[number]
end

local function write(number, b)
  local rest = b.leader or char(b.error[1]) .. b.error[2]
  call('HSET', K.BATCHES, number, pack(FORMAT, b.stands, b.size, b.gathered, b.led_from[1], b.led_from[2], b.led_from[3],
    b.before[1], b.before[2], b.before[3]) .. rest)
end

local function forget(number)
  call('HDEL', K.BATCHES, number)
  call('ZREM', K.FAILING, number)
  known[number] = false
end

-- Members of a batch, in their order.
local function members(number, max)
  return call('ZRANGEBYSCORE', K.BLOCKED_SET, number, number, 'LIMIT', 0, max)
end

local function counters_of(j)
  return { j.attempts, j.crashes, j.runs }
end

-- What a batch has spent, given its leader's counters.
local function spent(b, counters)
  local all = {}
  for i = 1, 3 do
    all[i] = math.min(math.max(counters[i] - b.led_from[i], 0) + b.before[i], MOST)
  end
  return all
end

-- Adds what its batch has spent to a job's own counters; as long as it may run again, up to one less than its budgets.
local function bear(j, what, may_run)
  local parts = job.parts(j)
  local attempts, crashes = math.min(j.attempts + what[1], MOST), math.min(j.crashes + what[2], MOST)
  if may_run then
    attempts = math.max(math.min(attempts, math.max(parts.max_attempts - 1, 0)), j.attempts)
    crashes = math.max(math.min(crashes, math.max(parts.max_crashes - 1, 0)), j.crashes)
  end
  j.attempts, j.crashes, j.runs = attempts, crashes, math.min(j.runs + what[3], MOST)
end

-- The batch that a job leads under a lease of this epoch.
function batches.led(j, epoch)
  local b = not j.unreadable and j.state == ACTIVE and j.epoch == epoch and j.batch and read(j.batch)
  return b and b.leader == j.id and b
end

function batches.is_formed(b)
  return b.stands >= BATCH.FORMED
end

function batches.spent_by(leader)
  return spent(read(leader.batch), counters_of(leader))
end

batches.bear = bear

-- The job, bearing what its batch has spent, if it is a member and the batch's leader has a lease of this epoch.
function batches.come_out(id, epoch)
  local j = job.load(id)
  local b = j and not j.unreadable and j.state == BLOCKED and j.batch and read(j.batch)
  local leader = b and b.leader and call('HGET', K.RUN, b.leader)
  if not leader or not is_entry(leader) or sub(leader, 1, 9) ~= char(ACTIVE) .. epoch then
    return nil
  end
  bear(j, spent(b, { unpack_bytes('>I4I4I4', leader, 39) }), true)
  j.epoch = epoch
  return j
end

-- A job that is in a batch goes back in line. Answers the batch that it stays in: that which it leads, if that has members.
function batches.step_back(j)
  local b = read(j.batch)
  if not b or b.leader ~= j.id then
    return nil
  end
  if #members(j.batch, 1) == 0 then
    forget(j.batch)
    return nil
  end
  if b.stands ~= BATCH.FORMED then
    b.stands = BATCH.FORMED
    write(j.batch, b)
  end
  return j.batch
end

-- The kind and the text of a job's last error.
local function last_error(j)
  local errors = has(j.mask, N.ERRORS) and call('HGET', K.NOTES, j.id .. 'e') or ''
  local at, last = 1, { 0, '' }
  while at + 14 <= #errors do
    local kind, length = unpack_bytes('>BI2', errors, at + 12)
    last = { kind, sub(errors, at + 15, at + 14 + length) }
    at = at + 15 + length
  end
  return last
end

-- A job leaves its batch for good, ended (for this reason, if it failed) or removed.
function batches.leave(j, failure)
  local number = j.batch
  j.batch = nil
  job.orphan(number)
  local b = read(number)
  if not b or b.leader ~= j.id then
    return
  end
  b.before = spent(b, counters_of(j))
  b.leader, b.stands = nil, BATCH.FORMED
  if failure == F.ATTEMPTS or failure == F.CRASHES or failure == F.ABORTED then
    b.error = last_error(j)
  end
end

-- Whether this is a member indeed. One that lost its entry is as it was enqueued.
local function is_member(j)
  return j and not j.unreadable and (j.state == BLOCKED or not j.noted)
end

-- Sees to a job that stood among the members and is none.
local function misplaced(j)
  if j and j.unreadable then
    job.fail(j, F.QUARANTINED, X.QUARANTINE, UNREADABLE)
  elseif j then
    job.stand(j)
  end
end

-- Gives a batch that lost its leader another, or notes that it fails, and forgets one without members.
function batches.pass_on(number)
  local b = read(number)
  if not b or b.leader then
    return
  end
  while true do
    local first = members(number, 1)[1]
    if not first then
      forget(number)
      return
    elseif b.error then
      if b.stands ~= BATCH.FAILING then
        b.stands = BATCH.FAILING
        write(number, b)
        call('ZADD', K.FAILING, number, number)
      end
      return
    end
    local id = sub(first, 8)
    local j = job.load(id, first)
    call('ZREM', K.BLOCKED_SET, first)
    if is_member(j) then
      bear(j, b.before, true)
      j.epoch, j.batch = next_epoch(j.epoch, now), number
      b.leader, b.led_from = id, counters_of(j)
      write(number, b)
      j.due = now8
      job.wait(j)
      job.stand(j)
      event(E.PROMOTED, id)
      placed_heirs[id] = true
      hint_work = true
      return
    end
    misplaced(j)
  end
end

-- Whether a batch's leader is there, in a state from which it comes back to its members.
local function is_led(number, id, entry)
  if not entry or not is_entry(entry) or call('HEXISTS', K.SPEC, id) == 0 then
    return false
  end
  local state, flags = byte(entry, 1), byte(entry, 36)
  local at = head_len(flags) - 5
  return (state == WAITING or state == DELAYED or state == ACTIVE) and has(flags, FLAG_BATCH) and #entry >= at + 5
    and unpack_bytes('>I6', entry, at) == number
end

-- Looks at some batches with members, in turn, for those that nobody would ever come back to because something of them was
-- destroyed: their entry, or their leader. The first member leads such a batch. What a leader had spent that is gone is not
-- known any more.
function batches.mend()
  if call('ZCOUNT', K.BLOCKED_SET, 1, '+inf') == 0 then
    return
  end
  local from = tonumber(call('HGET', K.META, 'mended') or '') or 0
  local at, numbers = from, {}
  while #numbers < MEND_MAX do
    at = tonumber(call('ZRANGEBYSCORE', K.BLOCKED_SET, string.format('(%.0f', at), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2])
    if not at then
      break
    end
    numbers[#numbers + 1] = at
  end
  -- Behind the last one it goes on with the first.
  if at ~= from and (at or from > 0) then
    call('HSET', K.META, 'mended', string.format('%.0f', at or 0))
  end
  for i = 1, #numbers do
    local n = numbers[i]
    local b = read(n)
    if b and b.error then
      call('ZADD', K.FAILING, n, n)
    elseif not b or not is_led(n, b.leader, call('HGET', K.RUN, b.leader)) then
      b = b or { size = 0, gathered = 0, before = { 0, 0, 0 } }
      b.leader, b.stands = nil, BATCH.FORMED
      known[n] = b
      batches.pass_on(n)
    end
  end
end

-- Fails up to `max` members of batches that failed; how many there were.
function batches.fail_members(max)
  local failed = 0
  while failed < max do
    local number = tonumber(call('ZRANGE', K.FAILING, 0, 0)[1])
    if not number then
      break
    end
    local b = read(number)
    local doomed = b and b.error and members(number, max - failed) or {}
    if #doomed == 0 then
      forget(number)
    end
    for i = 1, #doomed do
      local j = job.load(sub(doomed[i], 8), doomed[i])
      call('ZREM', K.BLOCKED_SET, doomed[i])
      if is_member(j) then
        bear(j, b.before, false)
        j.epoch = next_epoch(j.epoch, now)
        job.fail(j, F.WITH_BATCH, b.error[1], b.error[2])
      else
        misplaced(j)
      end
      if #heirs > 0 then
        job.place_heirs()
      end
    end
    failed = failed + #doomed
  end
  return failed
end

-- Whether an epoch comes before another.
local function is_below(epoch, other)
  local high, low = unpack_bytes('>i4I4', epoch)
  local other_high, other_low = unpack_bytes('>i4I4', other)
  return high < other_high or high == other_high and low < other_low
end

-- Gathers members into a batch, from the line with this number, looking at up to `max` jobs. What became of them is written
-- for as many at a time as are read. Answers how many were looked at.
local function gather(number, b, line, leader, max)
  local low, high, looked_at, is_over = line * 256, line * 256 + 255, 0, false
  local tail = pack('>I6', number) .. leader.worker
  while not is_over do
    -- The one after the last to look at says whether there may be more.
    local want = math.min(max - looked_at + 1, b.size - b.gathered, READ_MAX)
    local heads = want > 0 and call('ZRANGEBYSCORE', K.LINE, low, high, 'LIMIT', 0, want) or {}
    if #heads == 0 then
      b.stands = BATCH.FORMED
      break
    end
    local ids = {}
    for i = 1, #heads do
      ids[i] = sub(heads[i], 8)
    end
    local blobs, entries = get_many(K.SPEC, ids), get_many(K.RUN, ids)
    local gone, runs, places = {}, {}, {}
    for i = 1, #heads do
      local id, blob, entry = ids[i], blobs[i], entries[i]
      local readable = is_readable(blob, entry, heads[i])
      if readable and (sub(blob, 27, 26 + byte(blob, 26)) ~= leader.kind
        or entry and (has(byte(entry, 36), FLAG_BATCH) or not is_below(sub(entry, 2, 9), leader.epoch))) then
        b.stands, is_over = BATCH.FORMED, true
        break
      elseif looked_at == max then
        is_over = true
        break
      end
      looked_at = looked_at + 1
      gone[#gone + 1] = heads[i]
      local expires = readable and (entry and sub(entry, 25, 32) or sub(blob, 16, 23)) or NONE8
      if not readable then
        if blob then
          job.fail(job.of(id, blob, entry, heads[i]), F.QUARANTINED, X.QUARANTINE, UNREADABLE)
        elseif entry then
          call('HDEL', K.RUN, id)
        end
      elseif expires ~= NONE8 and now > number_at(expires) then
        job.fail(job.of(id, blob, entry), F.EXPIRED, X.EXPIRED, EXPIRED)
      else
        local runs_before = entry and unpack_bytes('>I4', entry, 47) or 0
        if runs_before == 0 and has(byte(blob, 25), T.DEDUP) then
          job.free_key(job.of(id, blob, entry), EXIT.STARTED)
        end
        local n = #runs
        runs[n + 1] = id
        if entry then
          local flags = byte(entry, 36)
          runs[n + 2] = char(BLOCKED) .. leader.epoch .. sub(entry, 10, 34) .. char(LANE, flags + FLAG_BATCH) .. sub(entry, 37, 46)
            .. pack('>I4', math.min(runs_before + 1, MOST)) .. now8 .. NONE8 .. NONE8 .. sub(entry, 75, head_len(flags)) .. tail
        else
          runs[n + 2] = char(BLOCKED) .. leader.epoch .. sub(blob, 1, 25) .. char(LANE, FLAG_BATCH, 0, 0) .. pack('>I4I4I4', 0, 0, 1)
            .. now8 .. NONE8 .. NONE8 .. tail
        end
        places[n + 1], places[n + 2] = number, heads[i]
        event(E.STARTED, id)
        b.gathered = b.gathered + 1
      end
    end
    many('ZREM', K.LINE, gone, 1)
    many('HSET', K.RUN, runs, 2)
    many('ZADD', K.BLOCKED_SET, places, 2)
  end
  write(number, b)
  return looked_at
end

-- Makes the job that was claimed last, out of the line with this number, the leader of a new batch, and gathers its first
-- members. `taken` and `out` are the claim's (see claim.lua). Answers whether the claim has looked at as many for batches as it
-- may.
local gathered = 0
function batches.open(gate, line, taken, out, worker)
  meta.batches = (meta.batches or 0) + 1
  call('HSET', K.META, 'batches', string.format('%.0f', meta.batches))
  local number, at = meta.batches, taken.count * 2
  local id, entry, blob, extra = taken.runs[at - 1], taken.runs[at], out[#out - 1], out[#out]
  local function marked(bytes)
    local flags = byte(bytes, 36)
    local head = head_len(flags)
    return sub(bytes, 1, 35) .. char(flags + FLAG_BATCH) .. sub(bytes, 37, head) .. pack('>I6', number) .. sub(bytes, head + 1)
  end
  taken.runs[at] = marked(entry)
  -- A worker knows by itself what a job brings along that never ran.
  out[#out] = marked(extra ~= '' and extra or sub(entry, 1, ENTRY_MIN))
  local b = { stands = BATCH.OPEN, size = gate.size, gathered = 1, led_from = { unpack_bytes('>I4I4I4', entry, 39) },
    before = { 0, 0, 0 }, leader = id }
  known[number] = b
  local leader = { kind = sub(blob, 27, 26 + byte(blob, 26)), epoch = sub(entry, 2, 9), worker = worker }
  gathered = gathered + gather(number, b, line, leader, GATHER_ITEMS_MAX - gathered)
  return gathered >= GATHER_ITEMS_MAX
end

-- Gathers more members into the batch that a job leads; answers the batch, and how many members it has.
function batches.gather_more(leader, max)
  local number, b, name = leader.batch, read(leader.batch), job.lane(leader)
  local line = lanes.number(name)
  if b.stands == BATCH.OPEN then
    if line then
      local worker = has(leader.flags, FLAG_COALESCED) and sub(leader.worker, 5) or leader.worker
      gather(number, b, line, { kind = job.parts(leader).kind, epoch = leader.epoch, worker = worker }, max)
      lanes.left(name)
    else
      b.stands = BATCH.FORMED
      write(number, b)
    end
  end
  return b, call('ZCOUNT', K.BLOCKED_SET, number, number)
end
