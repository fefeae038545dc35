-- Settles ended runs, with their follow-ups, and claims new jobs.
--
-- Arguments: the clock's reading, or ''; the call's number, or ''; the lowest number still open, or ''; how many
--   settlements, and those (see settle.lua); how many follow-ups, and per follow-up the place of its settlement, its queue
--   ('' for this one), its id and its spec from the priority on, in the order of settlements; then '' or max_items,
--   max_bytes, term (8 bytes), '1' if alone, worker, and the kinds.
-- Answer: flags (1 byte, 2: the outbox is not empty) and storage time (8 bytes); the settlements' answers as one text, each
--   '\0' and the state (1 byte) and the answers of its follow-ups (as enqueue.lua has them, or '\2' and the number in the
--   outbox), or '\1' already done, '\2' lease lost, '\3' gone; the claim's answer but for the jobs (see claim.lua), or '';
--   then per job its id, its spec, and '' or, if it has run before, its entry (without the worker) and its checkpoint.
--   Or, with nothing done: 'W', storage time (8 bytes) and the calendars whose windows are to be stored first, as JSON.
-- Errors: FERROQ_SCHEMA, FERROQ_INVALID.
-- Work: proportional to settlements + max_items, plus up to 1,000 promotions, up to 1,000 solo jobs that limits hold back,
--   up to 1,000 members of each batch that a claim opens, and twice as many prunings as settlements; about 5 microseconds each; and where a gap was longer than half the shortest lease, all Active jobs, about 2 microseconds each.
local refused = begin(ARGV[1])
if refused then
  return refused
end
local call_number, n = ARGV[2], tonumber(ARGV[4])
local known = recall(call_number)
local follow_ups = tonumber(ARGV[5 + n])
local at = 6 + n + follow_ups * 4


if known then
  if byte(known, 1) ~= 88 then
    return other_call()
  end
  local settled_len = unpack_bytes('>I4', known, 2)
  local reply = { outbox_flag() .. now8, sub(known, 6, 5 + settled_len), '' }
  if #known > 5 + settled_len then
    reply[3] = sub(known, 6 + settled_len, 16 + settled_len)
    -- Of the claims, those whose lease is still current.
    for from = 17 + settled_len, #known, 24 do
      local id = sub(known, from, from + 15)
      local entry, blob = call('HGET', K.RUN, id), call('HGET', K.SPEC, id)
      if entry and blob and is_entry(entry) and sub(entry, 1, 9) == char(ACTIVE) .. sub(known, from + 16, from + 23) then
        local k = #reply
        reply[k + 1], reply[k + 2], reply[k + 3] = id, blob, sub(entry, 1, head_len(byte(entry, 36)))
        if has(byte(entry, 37), N.CHECKPOINT) then
          reply[k + 3] = reply[k + 3] .. (call('HGET', K.NOTES, id .. 'c') or '')
        end
      end
    end
  end
  return reply
end

local settled = {}
local reply, rest = { '', '', '' }, ''
local asks = ARGV[at] ~= ''
if not exists then
  settled[1] = string.rep(A_GONE, n)
  rest = asks and '\0\0\0' .. LOOK_NONE or ''
else
  if asks and meta.calendars and meta.calendars ~= '' and meta.calendars ~= '[]' and not lanes.are_windows_known() then
    return 'W' .. now8 .. meta.calendars
  end
  attend()
  local ids = {}
  for i = 1, n do
    ids[i] = sub(ARGV[4 + i], 1, 16)
  end
  local entries, later = get_many(K.RUN, ids), {}
  local next_follow_up = 6 + n
  for i = 1, n do
    local id = ids[i]
    local entry = later[id]
    if entry == nil then
      entry = entries[i]
    end
    settled[i], later[id] = settle(ARGV[4 + i], id, entry)
    while follow_ups > 0 and next_follow_up < at and tonumber(ARGV[next_follow_up]) == i do
      if byte(settled[i], 1) == 0 then
        flush_done()
        local destination, follower, tail = ARGV[next_follow_up + 1], ARGV[next_follow_up + 2], ARGV[next_follow_up + 3]
        if destination == '' then
          local answer = put(follower, tail, call('HEXISTS', K.SPEC, follower) == 1)
          flush_puts()
          hint_work = hint_work or answer == '\0'
          settled[i] = settled[i] .. answer
          later[follower] = call('HGET', K.RUN, follower)
        else
          settled[i] = settled[i] .. '\2' .. job.send(destination, follower, tail)
        end
      end
      next_follow_up = next_follow_up + 4
    end
  end
  flush_done()
  if asks then
    local kinds, kind_list = {}, {}
    for i = at + 5, #ARGV do
      kinds[ARGV[i]] = true
      kind_list[#kind_list + 1] = ARGV[i]
    end
    rest = claim({ max_items = tonumber(ARGV[at]), max_bytes = tonumber(ARGV[at + 1]), term = ARGV[at + 2],
      alone = ARGV[at + 3] == '1', worker = ARGV[at + 4], kinds = kinds, kind_list = kind_list }, reply)
  end
  finish()
end
local settled_text = concat(settled)
if call_number ~= '' then
  local kept, n_kept, fresh = { 'X', pack('>I4', #settled_text), settled_text, rest }, 4, next_epoch(NONE8, now)
  for i = 4, #reply, 3 do
    kept[n_kept + 1] = reply[i]
    kept[n_kept + 2] = reply[i + 2] == '' and fresh or sub(reply[i + 2], 2, 9)
    n_kept = n_kept + 2
  end
  keep_answers({ call_number, answer_member(call_number, concat(kept)) }, ARGV[3])
end
reply[1], reply[2], reply[3] = outbox_flag() .. now8, settled_text, rest
return reply
