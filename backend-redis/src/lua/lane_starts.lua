-- What becomes of starts that are remembered, apart from claims: time goes over them, the clock steps back, a dump brings some.

-- No window of a calendar is longer than two days.
local CALENDAR_WINDOW_MAX = 172800000000

-- Throws away starts of classes and lanes that no longer count.
function lanes.fade(max)
  local over = call('ZRANGEBYSCORE', K.FADES, '-inf', string.format('%.0f', now), 'LIMIT', 0, max)
  many('HDEL', K.USAGE, over, 1)
  many('ZREM', K.FADES, over, 1)
end

-- Starts that were later than now count as of now: until when they count then, and the groups, which are changed; nothing
-- if there are none.
local function anchored(till, groups)
  local last, later = groups[#groups - 1], 0
  if not last or last <= now then
    return nil
  end
  while groups[#groups - 1] and groups[#groups - 1] > now do
    later = later + groups[#groups]
    groups[#groups], groups[#groups - 1] = nil, nil
  end
  groups[#groups + 1], groups[#groups + 2] = now, later
  return math.min(till, now + math.max(till - last, CALENDAR_WINDOW_MAX))
end

local function save_starts(field, till, groups)
  call('HSET', K.USAGE, field, pack('>i8', till) .. rate.write(groups))
  if field ~= 'q' then
    call('ZADD', K.FADES, string.format('%.0f', till), field)
  end
end

-- Takes in starts of a dump, where none that count are remembered.
function lanes.restore_starts(field, bytes)
  local till, groups = number(bytes), rate.read(sub(bytes, 9)) or rate.read('')
  till = anchored(till, groups) or till
  if till > now and starts_of(field).till <= now then
    save_starts(field, till, groups)
  end
end

-- The clock stepped back: starts that were later than now count as of now, and what was forgotten stays so.
function lanes.step_back()
  local all = call('HGETALL', K.USAGE)
  for i = 1, #all, 2 do
    local field, bytes = all[i], all[i + 1]
    local kind = sub(field, 1, 1)
    if (field == 'q' or kind == 'c' or kind == 'l') and #bytes >= 8 then
      local till, groups = number(bytes), rate.read(sub(bytes, 9)) or rate.read('')
      if till <= meta.last then
        call('HDEL', K.USAGE, field)
      else
        till = anchored(till, groups)
        if till then
          save_starts(field, till, groups)
        end
      end
    end
  end
  usage = {}
  lanes.reopen()
end
