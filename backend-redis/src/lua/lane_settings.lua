-- What changes when settings do: calendars whose windows the client is to bring, counters, gates, and lanes that are looked at anew.

-- From now on it is known how many jobs of each lane are Active.
function lanes.count_active()
  if meta.counted then
    return
  end
  meta.counted = true
  call('HSET', K.META, 'counted', '1')
  local members = call('ZRANGE', K.ACTIVE_SET, 0, -1)
  for i = 1, #members do
    local parts = job.parts_of(call('HGET', K.SPEC, sub(members[i], 8)) or '')
    lanes.count(parts and parts.lane or '', 1)
  end
end

-- The calendars that the settings and lanes' own policies name are kept apart, so that neither drops the other's; an exchange
-- reads them together.
local function join_calendars()
  local said = call('HMGET', K.META, 'said_calendars', 'lane_calendars')
  local named, known = {}, {}
  for i = 1, 2 do
    for _, calendar in ipairs(cjson.decode(said[i] or '[]')) do
      if not known[calendar] then
        named[#named + 1], known[calendar] = calendar, true
      end
    end
  end
  meta.calendars = #named > 0 and cjson.encode(named) or ''
  call('HSET', K.META, 'calendars', meta.calendars)
end

-- The settings name these calendars now, as JSON.
function lanes.name_calendars(said)
  call('HSET', K.META, 'said_calendars', said)
  join_calendars()
end

-- One more lane's own policy names a calendar, or '' for none. With no such policy left, none is named.
function lanes.name_calendar(calendar)
  if before.policies == 0 then
    call('HDEL', K.META, 'lane_calendars')
  elseif calendar ~= '' then
    local named = cjson.decode(call('HGET', K.META, 'lane_calendars') or '[]')
    for i = 1, #named do
      if named[i] == calendar then
        return
      end
    end
    named[#named + 1] = calendar
    call('HSET', K.META, 'lane_calendars', cjson.encode(named))
  else
    return
  end
  join_calendars()
end

-- The rules, or a lane's own policy, as the client's JSON: with the first gate there may be batches from here on.
function lanes.note_gates(said)
  if not meta.batches and string.find(said, '"batch":{', 1, true) then
    look_at_batch_keys()
    meta.batches = 0
    call('HSET', K.META, 'batches', 0)
  end
end

-- Stores a lane's own policy, as the client's JSON, or '' to remove it.
function lanes.set_policy(name, policy)
  local was = call('HGET', K.POLICIES, name) or ''
  if policy ~= '' then
    meet()
    lanes.note_gates(policy)
    call('HSET', K.POLICIES, name, policy)
  else
    call('HDEL', K.POLICIES, name)
  end
  before.policies = call('HLEN', K.POLICIES)
  if was ~= policy then
    lanes.reopen_lane(name)
  end
end

function lanes.reopen_lane(name)
  local l = entry_of(name)
  if l and l.standing ~= STANDS.RING then
    rejoin(name, l)
  end
end
