-- A queue's settings, from ten arguments: '1' if paused, else '0'; all of them as JSON; then, since scripts read no JSON,
-- age in microseconds and count of completed, of failed and of cancelled records, how many log entries are kept, and the dead-letter queue,
-- or ''.
-- The JSON is kept as it was given, so that what a newer library put there is not lost to an older one that pauses.
local function store_config(at)
  call('HSET', K.META, 'paused', ARGV[at], 'config', ARGV[at + 1], 'keep_completed_age', ARGV[at + 2], 'keep_completed',
    ARGV[at + 3], 'keep_failed_age', ARGV[at + 4], 'keep_failed', ARGV[at + 5], 'keep_cancelled_age', ARGV[at + 6],
    'keep_cancelled', ARGV[at + 7], 'events_kept', ARGV[at + 8], 'dead_letter', ARGV[at + 9])
  meta.events_kept = ARGV[at + 8]
end
