-- Enqueue: new jobs get their key, their seq and their place, or meet the job that holds their key (see meet.lua). Plain ones
-- (at once, in line, with no key) are collected and written together.
local put_specs, put_seen = {}, {}
local put_times = nil

local function flush_puts()
  many('HSET', K.SPEC, put_specs, 2)
  many('ZADD', K.LINE, put_line, 2)
  if #put_specs > 0 then
    put_specs, put_line = {}, {}
  end
end

-- Traits under which a job may still be written together with others: those that only its readers care about.
local function is_plain(traits)
  if traits == 0 then
    return true
  end
  return not (has(traits, T.DEDUP) or has(traits, T.EXPIRES) or has(traits, T.PLACE) or has(traits, T.BUDGETS))
end

-- The lane of a plain job: before it comes nothing but what is to be kept.
local function plain_lane(tail, traits)
  if not has(traits, T.LANE) then
    return ''
  end
  local at = 8 + byte(tail, 3)
  if has(traits, T.KEEP) then
    at = at + 27
  end
  return sub(tail, at + 1, at + byte(tail, at))
end

-- Inserts one job; `tail` is its spec from the priority on. `is_there` says whether the id is taken. Answers '\0', or
-- '\1' and its id if it is there, or what `job.meet` answers if its key is held.
local function put(id, tail, is_there)
  if is_there or put_seen[id] then
    return '\1' .. id
  end
  put_times = put_times or (now8 .. NONE8)
  local traits = byte(tail, 2)
  if is_plain(traits) then
    put_seen[id] = true
    meta.seq = meta.seq + 1
    local seq = pack('>I7', meta.seq + SEQ_BIAS)
    local n = #put_specs
    put_specs[n + 1] = id
    put_specs[n + 2] = seq .. put_times .. tail
    local name = traits == 0 and '' or plain_lane(tail, traits)
    put_line[n + 1] = (name ~= '' or is_laned()) and lanes.score(name, byte(tail, 1), nil, true) or byte(tail, 1)
    put_line[n + 2] = seq .. id
    event(E.ENQUEUED, id)
    return '\0'
  end
  return job.put(id, tail)
end
