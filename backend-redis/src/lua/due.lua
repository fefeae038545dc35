-- What a claim seldom does before it comes to the line: jobs that are due, those on the shelves of the kinds asked for, and those of
-- a kind that nobody asked for.

-- Whether a kind's name is one: text without control characters and braces.
local function is_name(text)
  if #text > 128 or string.find(text, '[%z\1-\31\127{}]') then
    return false
  end
  local at = 1
  while at <= #text do
    local first, second = byte(text, at, at + 1)
    local more = first < 128 and 0 or first >= 194 and first < 224 and 1 or first >= 224 and first < 240 and 2
      or first >= 240 and first < 245 and 3
    if not more or at + more > #text then
      return false
    end
    for i = 1, more do
      local b = byte(text, at + i)
      if b < 128 or b > 191 then
        return false
      end
    end
    -- A control character, a longer form of a shorter one, half of a pair, more than there is.
    if first == 194 and second < 160 or first == 224 and second < 160 or first == 237 and second > 159
      or first == 240 and second < 144 or first == 244 and second > 143 then
      return false
    end
    at = at + 1 + more
  end
  return true
end

-- Takes a job out of a set and puts it back in line; the job, if it can be read.
local function back_in_line(set, member)
  local j = job.load(sub(member, 8), member)
  call('ZREM', set, member)
  if j and j.unreadable then
    job.fail(j, F.QUARANTINED, X.QUARANTINE, UNREADABLE)
    return nil
  elseif j then
    job.wait(j)
    job.stand(j)
  end
  return j
end

-- Brings up to `max` due jobs forward, by (due time, seq); how many there were.
function job.promote_due(max)
  local members = call('ZRANGEBYSCORE', K.DELAYED_SET, '-inf', string.format('%.0f', now), 'LIMIT', 0, max)
  for i = 1, #members do
    local j = back_in_line(K.DELAYED_SET, members[i])
    if j then
      event(E.PROMOTED, j.id)
      hint_work = true
    end
  end
  return #members
end

-- Puts jobs of the kinds asked for back in line, `max` at most.
function job.clear_shelves(kinds, max)
  for i = 1, #kinds do
    local shelf = call('HGET', K.KINDS, kinds[i])
    if shelf and max > 0 then
      local from = shelf * 256
      local members = call('ZRANGEBYSCORE', K.SHELVES, from, from + 255, 'LIMIT', 0, max)
      for k = 1, #members do
        back_in_line(K.SHELVES, members[k])
      end
      max = max - #members
    end
  end
end

-- Puts a job of a kind that nobody asked for on its kind's shelf.
function job.shelve(j, kind)
  if is_name(kind) then
    j.slot = SHELF
    job.stand(j)
    event(E.SHELVED, j.id)
  else
    job.fail(j, F.QUARANTINED, X.QUARANTINE, UNREADABLE)
  end
  -- The token that brought this worker is spent, so everybody is told: the one with a handler is among them.
  hint_control = true
end
