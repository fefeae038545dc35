-- The walk over a queue's jobs: state by state, Waiting by line, solo line and shelves; within a set by score and then by
-- member, whose first seven bytes are the seq. A step finds its place by halving and not by counting along, so it costs
-- what it looks at and a logarithm, wherever in the queue it is.
local WALK = { K.LINE, K.SOLO_LINE, K.SHELVES, K.DELAYED_SET, K.BLOCKED_SET, K.ACTIVE_SET, K.COMPLETED_SET,
  K.FAILED_SET, K.CANCELLED_SET }
local EVERY_STATE = 127

-- A step from nine arguments: the states as bits (1: Waiting, 2: Delayed, 4: Blocked, ...); the kind, or ''; '=' and the
-- lane, or ''; the tag, or ''; the age in microseconds, or ''; the place after which to go on as the number of its set in
-- WALK, score and seq, or '' three times; how many to look at.
local function step_of(at)
  return { states = tonumber(ARGV[at]), kind = ARGV[at + 1], lane = ARGV[at + 2], tag = ARGV[at + 3],
    age = tonumber(ARGV[at + 4]), set = tonumber(ARGV[at + 5]), score = ARGV[at + 6], seq = tonumber(ARGV[at + 7]),
    max = tonumber(ARGV[at + 8]) }
end

-- How many members of a set are at or before a score and seq. Members are compared as numbers, because Lua compares
-- texts as the server's locale says.
local function passed(set, score, seq)
  local low, high = call('ZCOUNT', set, '-inf', '(' .. score), call('ZCOUNT', set, '-inf', score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if unpack_bytes('>I7', call('ZRANGE', set, middle, middle)[1]) - SEQ_BIAS <= seq then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

-- The places that a step looks at, each with its set, member and score.
local function walk(step)
  local found = {}
  for n = step.set or 1, #WALK do
    if #found < step.max and has(step.states, 2 ^ math.max(n - 3, WAITING)) then
      local from = n == step.set and passed(WALK[n], step.score, step.seq) or 0
      local members = call('ZRANGE', WALK[n], from, from + step.max - #found - 1, 'WITHSCORES')
      for i = 1, #members, 2 do
        found[#found + 1] = { n = n, set = WALK[n], member = members[i], score = tonumber(members[i + 1]) }
      end
    end
  end
  return found
end

-- Where the step after this one goes on: set (1), score (8), seq (7); '' if the walk is over.
local function next_place(found, step)
  local last = found[#found]
  if not last or #found < step.max then
    return ''
  end
  return char(last.n) .. (last.score >= number(MAX8) and MAX8 or pack('>i8', last.score)) .. sub(last.member, 1, 7)
end

-- Reads the jobs at places; a place whose job is gone is passed over.
local function each_at(found, visit)
  for from = 1, #found, READ_MAX do
    local ids = {}
    for i = from, math.min(from + READ_MAX - 1, #found) do
      ids[#ids + 1] = sub(found[i].member, 8)
    end
    local blobs, entries = get_many(K.SPEC, ids), get_many(K.RUN, ids)
    for i = 1, #ids do
      if blobs[i] then
        visit(job.of(ids[i], blobs[i], entries[i], found[from + i - 1].member), found[from + i - 1], entries[i])
      end
    end
  end
end

-- Whether a job is one that the step asks for, given that it stands in a set that the step allows.
local function matches(j, step)
  if step.age and (j.state < COMPLETED or j.till == NONE8 or now - number(j.till) <= step.age) then
    return false
  end
  if step.kind == '' and step.lane == '' and step.tag == '' then
    return true
  end
  local parts = job.parts(j)
  if step.kind ~= '' and parts.kind ~= step.kind or step.lane ~= '' and parts.lane ~= sub(step.lane, 2) then
    return false
  end
  for i = 1, #parts.tags do
    if parts.tags[i] == step.tag then
      return true
    end
  end
  return step.tag == ''
end

-- Adds a record to a reply: id, spec, entry, errors, progress, checkpoint, result, log; nil where there is none.
local function add_record(reply, j, entry)
  local id, n = j.id, #reply
  local notes = j.mask > 0 and call('HMGET', K.NOTES, id .. 'e', id .. 'p', id .. 'c', id .. 'r', id .. 'l') or {}
  reply[n + 1], reply[n + 2], reply[n + 3] = id, j.blob, entry or false
  for i = 1, 5 do
    reply[n + 3 + i] = notes[i] or false
  end
end
