-- Writes a page of a dump: settings, keys that nobody holds, lanes' policies, starts where none are remembered, and jobs whose id is not there, as they are.
--
-- A seq beyond the queue's counter is nobody's. Of the others somebody has to look whether another job has them, which
-- would take this script too long; so it asks for a look (see seqs.lua), and is called again with what the look is good
-- for: the counter, and the number of restores, as they were before it. New jobs only get seqs beyond that counter.
--
-- Arguments: the clock's reading, or ''; the counter and the number of restores as they were before the look, or '' and
--   ''; the settings (see config.lua), or '' as often; how many keys, and per key its name, and its holder and until
--   when (16 + 8 bytes); how many policies, and per policy the lane, '' for the default one, its JSON, '1' if it needs to know
--   how many jobs of the lane are Active, and the calendar that it names, or ''; how many limits remember starts, and per
--   limit its field, and until when and the groups (see lanes.lua); then per job id, spec, entry (or ''), and errors, progress, checkpoint, result and log (or '').
-- Answer: flags (1 byte, 1: the queue was made), how many jobs were written, and how many were there already; or the
--   counter, the number of restores, and the seqs to look for (7 bytes each), after '\2', with nothing written.
-- Errors: FERROQ_SCHEMA, FERROQ_INVALID.
-- Work: proportional to the page and its bytes, about 5 microseconds per job, policy or limit.
local refused = begin(ARGV[1])
if refused then
  return refused
end
local restores = call('HGET', K.META, 'restores') or '0'
local looked_up_to = ARGV[3] == restores and tonumber(ARGV[2]) or -1
local keys_at = 19
local policies_at = keys_at + tonumber(ARGV[keys_at - 1]) * 2 + 1
local starts_at = policies_at + tonumber(ARGV[policies_at - 1]) * 4 + 1
local jobs_at = starts_at + tonumber(ARGV[starts_at - 1]) * 2
local met, seqs, fresh, to_look_for = {}, {}, {}, {}
local existing, highest, must_look = 0, meta.seq, false
for at = jobs_at, #ARGV, 8 do
  local id, seq = ARGV[at], sub(ARGV[at + 1], 1, 7)
  if met[id] or call('HEXISTS', K.SPEC, id) == 1 then
    existing = existing + 1
  else
    if seqs[seq] then
      return refuse('INVALID', 'two jobs of the restored page have the same seq')
    end
    met[id], seqs[seq] = true, true
    fresh[#fresh + 1] = at
    local size = math.abs(unpack_bytes('>I7', seq) - SEQ_BIAS)
    highest = math.max(highest, size)
    if size <= meta.seq then
      to_look_for[#to_look_for + 1] = seq
      must_look = must_look or size > looked_up_to
    end
  end
end
if must_look then
  return { '\2', string.format('%.0f', meta.seq), restores, concat(to_look_for) }
end

-- Settings, policies and jobs may all write to these.
lanes.look_at_keys()
go_on()
if ARGV[5] ~= '' then
  store_config(4)
  hint_control = true
end
for at = keys_at, policies_at - 2, 2 do
  local key, hold = ARGV[at], ARGV[at + 1]
  if call('HSETNX', K.DEDUP, key, hold) == 1 and sub(hold, 17, 24) ~= NONE8 then
    call('ZADD', K.HOLDS, number(sub(hold, 17, 24)), key)
  end
end
for at = policies_at, starts_at - 2, 4 do
  lanes.set_policy(ARGV[at], ARGV[at + 1])
  if ARGV[at + 2] == '1' then
    lanes.count_active()
  end
  lanes.name_calendar(ARGV[at + 3])
  hint_control = true
end
for at = starts_at, jobs_at - 1, 2 do
  lanes.restore_starts(ARGV[at], ARGV[at + 1])
end
local specs, runs, notes, lines, term_min = {}, {}, {}, {}, nil
local latest = now
-- Jobs without an entry come due in the order of their seqs, which gates go by (see gates.lua). So do those of one dump; but not
-- together with others that were here before, or came since its first page.
local in_order = (call('HGET', K.META, 'restored_to') or '0') == string.format('%.0f', meta.seq)
  and (meta.seq == 0 or ARGV[5] == '')
local letters = { 'e', 'p', 'c', 'r', 'l' }
for i = 1, #fresh do
  local at = fresh[i]
  local id, blob, entry = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local j = job.of(id, blob, entry ~= '' and entry)
  specs[2 * i - 1], specs[2 * i] = id, blob
  if entry ~= '' then
    runs[#runs + 1], runs[#runs + 2] = id, entry
  elseif not in_order then
    runs[#runs + 1], runs[#runs + 2] = id, job.entry(j)
  end
  if j.state == WAITING or j.state == ACTIVE then
    latest = math.max(latest, number(j.due))
  end
  for k = 1, 5 do
    if ARGV[at + 2 + k] ~= '' then
      notes[#notes + 1], notes[#notes + 2] = id .. letters[k], ARGV[at + 2 + k]
    end
  end
  local line, score = job.line(j, 'later')
  lines[line] = lines[line] or {}
  local members = lines[line]
  members[#members + 1], members[#members + 2] = score, j.member
  if line == K.LINE then
    -- The default lane may have to join others before its jobs are written.
    put_line[#put_line + 1] = j.member
  elseif j.state == ACTIVE then
    lanes.count(job.lane(j), 1)
    term_min = math.min(term_min or number(j.term), number(j.term))
  end
end
many('HSET', K.SPEC, specs, 2)
many('HSET', K.RUN, runs, 2)
many('HSET', K.NOTES, notes, 2)
if term_min then
  note_term(term_min)
end
for line, members in pairs(lines) do
  many('ZADD', line, members, 2)
end
call('HINCRBY', K.META, 'restores', 1)
meta.seq, meta.attended = highest, now
if in_order then
  call('HSET', K.META, 'restored_to', string.format('%.0f', highest))
end
if latest > now then
  -- As if the clock had stepped back from there.
  lanes.note_set_back(latest)
end
hint_work = true
created = not exists
finish()
return { created and '\1' or '\0', #fresh, existing }
