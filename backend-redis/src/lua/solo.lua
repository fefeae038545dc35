-- The solo line: jobs on their last crash, each of which runs alone in its process.

-- How many of them a claim goes through.
local SOLO_ITEMS_MAX = 1000

-- Goes through the first jobs of the solo line until `max` are found that no limit holds back: their members, the lanes of these
-- (none where there are no limits), and if there are none, whether some are held back and when the first of those may start, if
-- that is only a matter of time.
local function go_through_solo(max)
  local found, names, rooms, held, opens, at = {}, {}, {}, false, math.huge, 0
  if not is_laned() then
    return call('ZRANGE', K.SOLO_LINE, 0, math.min(max, SOLO_ITEMS_MAX) - 1), names
  end
  local is_full, queue_opens = lanes.is_full()
  if is_full then
    return found, names, call('ZCARD', K.SOLO_LINE) > 0, queue_opens
  end
  while at < SOLO_ITEMS_MAX and #found < max do
    local till = math.min(at + READ_FIRST, SOLO_ITEMS_MAX)
    local members, some = call('ZRANGE', K.SOLO_LINE, at, till - 1), {}
    for i = 1, #members do
      some[i] = sub(members[i], 8)
    end
    local blobs = get_many(K.SPEC, some)
    for i = 1, #members do
      local parts = job.parts_of(blobs[i] or '')
      local name = parts and parts.lane or ''
      local room = rooms[name] or { lanes.may_start(name) }
      rooms[name] = room
      if not room[1] then
        held, opens = true, math.min(opens, room[2] or math.huge)
      elseif #found < max then
        found[#found + 1], names[#names + 1] = members[i], name
      end
    end
    at = #members < till - at and SOLO_ITEMS_MAX or till
  end
  return found, names, held and #found == 0, opens
end

-- Claims the first job of the solo line that may run here, if nothing else does. Answers what the line has then: nothing (0), a job
-- that may start (1), or only such as are held back (2) and when one of these may start.
function job.claim_solo(ask, out)
  local found, names, held, opens = go_through_solo(ask.alone and ask.max_items or 1)
  if ask.alone and #found > 0 then
    for i = 1, #found do
      local _, claimed = claim_from({ found[i] }, ask, out, 1)
      call('ZREM', K.SOLO_LINE, found[i])
      if claimed > 0 then
        if names[i] then
          lanes.note_start(names[i])
        end
        break
      end
    end
    found, names, held, opens = go_through_solo(1)
  end
  return #found > 0 and 1 or held and 2 or 0, held and opens or math.huge
end
