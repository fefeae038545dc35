-- A queue's settings, from ten arguments: '1' if paused, else '0'; all of them as JSON; then, since scripts read no JSON,
-- age in microseconds and count of completed, of failed and of cancelled records, how many log entries are kept, and the dead-letter queue,
-- or ''.
-- The JSON is kept as it was given, so that what a newer library put there is not lost to an older one that pauses.
-- Then come the settings about lanes and limits, for scripts: all of them as JSON, or '' if there are none; those about lanes
-- as JSON; '1' if any of them needs to know how many jobs of a lane are Active; and the calendars that they name, as JSON.
local function store_config(at)
  local rules, said, counted = ARGV[at + 10], ARGV[at + 11], ARGV[at + 12] == '1'
  if rules ~= '' then
    lanes.meet()
    lanes.note_gates(rules)
  end
  local changed = said ~= (call('HGET', K.META, 'lanes_said') or '')
  meta.rules = rules ~= '' and rules
  if changed and is_laned() then
    lanes.reopen()
  end
  if counted then
    lanes.count_active()
  end
  call('HSET', K.META, 'rules', rules, 'lanes_said', said)
  lanes.name_calendars(ARGV[at + 13])
  call('HSET', K.META, 'paused', ARGV[at], 'config', ARGV[at + 1], 'keep_completed_age', ARGV[at + 2], 'keep_completed',
    ARGV[at + 3], 'keep_failed_age', ARGV[at + 4], 'keep_failed', ARGV[at + 5], 'keep_cancelled_age', ARGV[at + 6],
    'keep_cancelled', ARGV[at + 7], 'events_kept', ARGV[at + 8], 'dead_letter', ARGV[at + 9])
  meta.events_kept = ARGV[at + 8]
end
