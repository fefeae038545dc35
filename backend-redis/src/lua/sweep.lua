-- Does what time has made due: members of batches that failed, leases that ran out, Delayed jobs, and records that may go, within one budget.
--
-- Arguments: the clock's reading, or ''; max_items.
-- Answer: flags (1 byte, 2: the outbox is not empty), how many failed with their batch, stalled, were promoted and were pruned (4 bytes each), whether there
--   is more (1 byte), and how many microseconds until something is due (8 bytes, all ones if nothing is pending); one text.
-- Errors: FERROQ_SCHEMA.
-- Work: proportional to max_items, about 8 microseconds each, and twice that for each dead letter; up to 20 batches with members,
--   about 3 microseconds each; and where a gap was longer than half the shortest lease, all Active jobs, about 2 microseconds each.
local refused = begin(ARGV[1])
if refused then
  return refused
end
if not exists then
  -- An obliterated queue may have left something for others.
  return outbox_flag() .. string.rep('\0', 17) .. LOOK_NONE
end
local room = tonumber(ARGV[2])
attend()
local until_now = string.format('%.0f', now)
local failed = meta.batches and batches.fail_members(room) or 0
room = room - failed
if meta.batches then
  batches.mend()
end
local late = room > 0 and call('ZRANGEBYSCORE', K.ACTIVE_SET, '-inf', until_now, 'LIMIT', 0, room) or {}
for i = 1, #late do
  local j = job.load(sub(late[i], 8), late[i])
  if j and j.state == ACTIVE and not j.unreadable then
    job.apply_crash(j)
  else
    call('ZREM', K.ACTIVE_SET, late[i])
    if j then
      job.fail(j, F.QUARANTINED, X.QUARANTINE, UNREADABLE)
    end
  end
  if #heirs > 0 then
    job.place_heirs()
  end
end
room = room - #late
local promoted = room > 0 and job.promote_due(room) or 0
room = room - promoted
local pruned = 0
for state = COMPLETED, CANCELLED do
  local old = room > 0 and call('ZRANGEBYSCORE', set_of(state), '-inf', until_now, 'LIMIT', 0, room) or {}
  for i = 1, #old do
    call('ZREM', set_of(state), old[i])
    local j = job.load(sub(old[i], 8), old[i])
    if j then
      job.free_key(j, EXIT.REMOVED_ENDED)
      job.erase(j)
    end
  end
  room = room - #old
  pruned = pruned + #old
end
-- Starts are remembered for a while where there are no lanes and rules any more.
if room > 0 and (is_laned() or call('ZCARD', K.FADES) > 0) then
  lanes.fade(tonumber(ARGV[2]))
end
local next
for state = DELAYED, CANCELLED do
  local first = state ~= BLOCKED and call('ZRANGE', set_of(state), 0, 0, 'WITHSCORES') or {}
  local at = tonumber(first[2])
  if at and (not next or at < next) then
    next = at
  end
end
if meta.batches and call('ZCARD', K.FAILING) > 0 then
  next = now
end
local wait = LOOK_NONE
if next then
  wait = next >= EXACT_MAX and MAX8 or pack('>i8', math.max(next - now, 0))
end
finish()
return outbox_flag() .. pack('>I4I4I4I4', failed, #late, promoted, pruned)
  .. ((next and next <= now) and '\1' or '\0') .. wait
