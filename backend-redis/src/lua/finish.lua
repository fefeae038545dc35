-- The end of a turn: pruning by count, one entry in the event log, storage time, and hints.

-- How many records that somebody waits for are passed over by one call; what is beyond the count then stays a while.
local PASSED_MAX = 1000

-- Removes what is beyond the queue's count of records in a state, at most twice what the call added, passing over those
-- that somebody waits for.
local function prune_by_count(state, count_added)
  local set = set_of(state)
  local quota = math.min(call('ZCARD', set) - keep_of(state).count, count_added * 2)
  local at = 0
  while quota > 0 and at < PASSED_MAX do
    local members = call('ZRANGE', set, at, at + quota - 1)
    if #members == 0 then
      return
    end
    local ids = {}
    for i = 1, #members do
      ids[i] = sub(members[i], 8)
    end
    local entries = get_many(K.RUN, ids)
    local plain, plain_members, passed = {}, {}, 0
    for i = 1, #ids do
      local e = entries[i]
      -- Neither a key nor notes nor a waiter: the two entries are all there is.
      if e and is_entry(e) and byte(e, 34) % 2 == 0 and byte(e, 36) < FLAG_WAITED_ON and byte(e, 37) == 0 then
        plain[#plain + 1] = ids[i]
        plain_members[#plain_members + 1] = members[i]
      elseif e and is_entry(e) and has(byte(e, 36), FLAG_WAITED_ON) and now - number(sub(e, 59, 66)) < WAITED_ON_KEEP then
        passed = passed + 1
      else
        local j = job.load(ids[i], members[i])
        if j then
          job.remove(j)
        else
          call('ZREM', set, members[i])
        end
      end
    end
    if #plain == #ids then
      call('ZREMRANGEBYRANK', set, at, at + #ids - 1)
    else
      many('ZREM', set, plain_members, 1)
    end
    many('HDEL', K.SPEC, plain, 1)
    many('HDEL', K.RUN, plain, 1)
    quota = quota - (#ids - passed)
    at = at + passed
  end
end

-- Leaves a token for an idle worker: one blocked client gets it, so that one worker comes for one job. Whoever claims
-- and leaves work behind leaves the next token, so that as many come as there is work for.
local function wake()
  if before.tokens == 0 then
    call('LPUSH', K.WAKE, '1')
  end
end

local function finish()
  for state = COMPLETED, CANCELLED do
    if added[state] > 0 then
      prune_by_count(state, added[state])
    end
  end
  if #heirs > 0 then
    job.place_heirs()
  end
  if attends and (before.active > 0 or call('ZCARD', K.ACTIVE_SET) > 0) then
    meta.attended = now
  end
  event_flush()
  if #ev_parts > 0 then
    call('XADD', K.EVENTS, 'MAXLEN', '~', meta.events_kept, '0-*', 'e', now8 .. concat(ev_parts))
  end
  if is_laned() then
    lanes.close()
    call('HSET', K.META, 'turns', string.format('%.0f', meta.turns), 'lane_last', string.format('%.0f', meta.lane_last),
      'reopen_to', string.format('%.0f', meta.reopen_to))
  end
  local changed = { 'last', string.format('%.0f', now) }
  if not exists then
    changed[3], changed[4] = 'layout', LAYOUT
  end
  if not exists or meta.attended ~= meta.last_attended then
    changed[#changed + 1], changed[#changed + 2] = 'attended', string.format('%.0f', meta.attended)
  end
  if not exists or meta.term_min ~= meta.last_term_min then
    changed[#changed + 1], changed[#changed + 2] = 'term_min', string.format('%.0f', meta.term_min)
  end
  if not exists or meta.seq ~= meta.last_seq then
    changed[#changed + 1], changed[#changed + 2] = 'seq', string.format('%.0f', meta.seq)
  end
  call('HSET', K.META, unpack(changed))
  if created then
    -- What an obliteration left behind for a while is the new queue's to keep.
    call('PERSIST', K.LEDGER)
  end
  if hint_work then
    wake()
  end
  if hint_control then
    call('PUBLISH', K.META, 'c')
  end
  if #hint_ended > 0 then
    call('PUBLISH', K.META, 'e' .. concat(hint_ended))
  end
end

-- The answer that a call got before, if this is a repeat; a call without a number has none. What a call acknowledges is
-- dropped when its own answer is kept.
-- How many acknowledged answers one call drops; after a call that was open for long there may be very many.
local DROPPED_MAX = 1000

local function recall(call_number)
  if call_number == '' or before.answers == 0 then
    return nil
  end
  local kept = call('ZRANGEBYSCORE', K.ANSWERS, call_number, call_number, 'LIMIT', 0, 1)
  return kept[1] and sub(kept[1], 9)
end

-- Keeps answers: scores and members in turn.
local function keep_answers(list, acknowledged_below)
  if #list == 0 then
    return
  end
  if before.answers > DROPPED_MAX then
    local acknowledged = call('ZCOUNT', K.ANSWERS, '-inf', '(' .. acknowledged_below)
    call('ZREMRANGEBYRANK', K.ANSWERS, 0, math.min(acknowledged, DROPPED_MAX) - 1)
  elseif before.answers > 0 then
    call('ZREMRANGEBYSCORE', K.ANSWERS, '-inf', '(' .. acknowledged_below)
  end
  many('ZADD', K.ANSWERS, list, 2)
  call('PEXPIRE', K.ANSWERS, SESSION_IDLE_MS)
end

local function answer_member(call_number, answer)
  return pack('>I8', tonumber(call_number)) .. answer
end

local function other_call()
  return refuse('INVALID', 'this call id was used for a call of another sort')
end

-- '\2' if there is something to relay to another queue.
local function outbox_flag()
  return (before.outbox > 0 or is_sent) and '\2' or '\0'
end
