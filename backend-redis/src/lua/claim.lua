-- Claim: shelves, due jobs, the solo line, and then the line itself. Each job looked at leaves the head of its line
-- (claimed, failed, or put on a shelf), so nobody scans past jobs that can't be run here. Jobs that were never claimed
-- before share their whole entry but for what they bring along, so they are collected and written together.

parts_to_open[#parts_to_open + 1] = function()
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
end

-- Whether the start of a spec can be read, and the entry agrees with it and with where the job stands.
local function is_readable(blob, entry, member)
  if not (blob and #blob >= HEAD_MIN and byte(blob, 26) > 0 and #blob >= 33 + byte(blob, 26)) then
    return false
  end
  local seq = sub(member, 1, 7)
  return sub(blob, 1, 7) == seq
    and (not entry or is_entry(entry) and sub(entry, 10, 16) == seq and byte(entry, 34) == byte(blob, 25))
end

local function payload_len(blob)
  return (unpack_bytes('>I4', blob, 27 + byte(blob, 26)))
end

-- How many specs a claim reads before it knows how large they are.
local READ_FIRST = 16

-- What a claim has come to so far. `read_bytes` and `bytes` are of specs read and of payloads claimed.
local taken = { runs = {}, active = {}, count = 0, read_bytes = 0 }

-- Looks at the first jobs of a line, given as its members, and claims up to `room` of them into `out`: id, spec, and what else
-- the worker has to know. `ask` has max_items, max_bytes, term (as bytes), kinds (as a set), worker. Answers how many it looked
-- at, how many it claimed, and whether the next would make the answer too large. They are the caller's to take out of line.
local function claim_from(members, ask, out, room)
  local ids, blobs, entries = {}, {}, {}
  -- Specs are read a few at first, and then as many as the first ones let expect to fit: a line of large payloads is not
  -- read as a whole for the sake of one.
  local read, read_bytes = 0, 0
  local function read_on()
    local n = READ_FIRST
    if read > 0 then
      n = math.max(1, math.floor((ask.max_bytes - taken.read_bytes) / math.max(read_bytes / read, 1)))
    end
    local till_place = math.min(#members, read + n)
    local some = {}
    for i = read + 1, till_place do
      some[i - read] = sub(members[i], 8)
    end
    local some_blobs, some_entries = get_many(K.SPEC, some), get_many(K.RUN, some)
    for i = 1, #some do
      ids[read + i], blobs[read + i], entries[read + i] = some[i], some_blobs[i], some_entries[i]
      read_bytes = read_bytes + (some_blobs[i] and #some_blobs[i] or 0)
    end
    taken.read_bytes = taken.read_bytes + read_bytes
    read = till_place
  end
  if not taken.till then
    taken.till = after(now, ask.term)
    taken.score = string.format('%.0f', number(taken.till))
    -- The entry of a job that is claimed for the first time: this, then what it brings along, then this.
    taken.fresh_head = char(ACTIVE) .. next_epoch(NONE8, now)
    taken.fresh_tail = '\0\0\0\0' .. pack('>I4I4I4', 0, 0, 1) .. now8 .. taken.till .. ask.term .. ask.worker
  end
  local till, score, fresh_head, fresh_tail = taken.till, taken.score, taken.fresh_head, taken.fresh_tail
  local kinds, runs, active = ask.kinds, taken.runs, taken.active
  local n_out, looked_at, claimed = #out, 0, 0
  for i = 1, #members do
    if claimed == room then
      break
    end
    if i > read then
      read_on()
    end
    local id, blob, entry = ids[i], blobs[i], entries[i]
    local readable = is_readable(blob, entry, members[i])
    local expires = readable and (entry and sub(entry, 25, 32) or sub(blob, 16, 23)) or NONE8
    if not readable then
      if blob then
        job.fail(job.of(id, blob, entry, members[i]), F.QUARANTINED, X.QUARANTINE, UNREADABLE)
      elseif entry then
        call('HDEL', K.RUN, id)
      end
    elseif expires ~= NONE8 and now > number(expires) then
      job.fail(job.of(id, blob, entry), F.EXPIRED, X.EXPIRED, EXPIRED)
    elseif not kinds[sub(blob, 27, 26 + byte(blob, 26))] then
      job.shelve(job.of(id, blob, entry), sub(blob, 27, 26 + byte(blob, 26)))
    else
      -- The payload bytes of the claims are counted once the specs read are more than may be, since none is shorter than its
      -- payload.
      if taken.bytes or taken.read_bytes > ask.max_bytes then
        if not taken.bytes then
          taken.bytes = 0
          for k = taken.first_out + 2, n_out, 3 do
            taken.bytes = taken.bytes + payload_len(out[k])
          end
        end
        local more = payload_len(blob)
        if taken.count > 0 and taken.bytes + more > ask.max_bytes then
          return looked_at, claimed, true
        end
        taken.bytes = taken.bytes + more
      end
      local mode = byte(blob, 25) % 2 == 1 and byte(blob, 31 + byte(blob, 26))
      if (mode == M.DEBOUNCE or mode == M.COALESCE) and (not entry or sub(entry, 47, 50) == '\0\0\0\0') then
        job.free_key(job.of(id, blob, entry), EXIT.STARTED)
      end
      local extra = ''
      if not entry then
        entry = fresh_head .. sub(blob, 1, 25) .. fresh_tail
      else
        local run = math.min(unpack_bytes('>I4', entry, 47) + 1, 4294967295)
        extra = char(ACTIVE) .. next_epoch(sub(entry, 2, 9), now) .. sub(entry, 10, 34) .. '\0' .. sub(entry, 36, 46)
          .. pack('>I4', run) .. now8 .. till .. ask.term
        local flags = byte(entry, 36)
        if flags >= FLAG_COALESCED then
          extra = extra .. sub(entry, 75, head_len(flags))
        end
        entry = extra .. ask.worker
        if has(byte(entry, 37), N.CHECKPOINT) then
          extra = extra .. (call('HGET', K.NOTES, id .. 'c') or '')
        end
      end
      event(E.STARTED, id)
      claimed = claimed + 1
      taken.count = taken.count + 1
      local n = taken.count * 2
      runs[n - 1], runs[n] = id, entry
      active[n - 1], active[n] = score, members[i]
      out[n_out + 1], out[n_out + 2], out[n_out + 3] = id, blob, extra
      n_out = n_out + 3
    end
    looked_at = i
  end
  return looked_at, claimed, false
end

-- Writes the jobs that were claimed as Active.
local function write_claims(ask)
  if taken.count == 0 then
    return
  end
  note_term(number(ask.term))
  many('HSET', K.RUN, taken.runs, 2)
  -- Last first: Redis keeps a small sorted set as a list, and finds the place of each at once if it is the front.
  local backwards, n = {}, taken.count * 2
  for k = 1, n, 2 do
    backwards[k], backwards[k + 1] = taken.active[n - k], taken.active[n - k + 1]
  end
  many('ZADD', K.ACTIVE_SET, backwards, 2)
end

parts_to_open[#parts_to_open + 1] = function()
  -- Claims the first job of the solo line that may run here, passing over those that a limit holds back. Answers when one of
  -- these may start, as far as can be told.
  function job.claim_solo(ask, out)
    local members, opens = call('ZRANGE', K.SOLO_LINE, 0, ask.max_items - 1), math.huge
    for i = 1, #members do
      local may, at, name = true, nil, nil
      if is_laned() then
        local parts = job.parts_of(call('HGET', K.SPEC, sub(members[i], 8)) or '')
        name = parts and parts.lane or ''
        may, at = lanes.may_start(name)
      end
      if may then
        local _, claimed = claim_from({ members[i] }, ask, out, 1)
        call('ZREM', K.SOLO_LINE, members[i])
        if claimed > 0 then
          if name then
            lanes.note_start(name)
          end
          break
        end
      else
        opens = math.min(opens, at or math.huge)
      end
    end
    return opens < math.huge and opens
  end

  job.is_readable = is_readable

  -- Serves the lanes.
  function job.serve_lanes(ask, out)
    lanes.serve(ask, function(line, max, room, gate)
      local from = line * 256
      local members = call('ZRANGEBYSCORE', K.LINE, from, from + 255, 'LIMIT', 0, max)
      local looked_at, claimed, is_full = claim_from(members, ask, out, room)
      if looked_at > 0 then
        local gone = members
        if looked_at < #members then
          gone = {}
          for i = 1, looked_at do
            gone[i] = members[i]
          end
        end
        many('ZREM', K.LINE, gone, 1)
      end
      local opens = gate and claimed == 1 and not has(byte(taken.runs[taken.count * 2], 36), FLAG_BATCH)
      if opens then
        is_full = batches.open(gate, line, taken, out, ask.worker) or is_full
      end
      return looked_at, claimed, is_full, looked_at == #members and #members < max, opens
    end)
  end
end

local LOOK_NONE = '\255\255\255\255\255\255\255\255'

-- Claims as asked. Adds the claims to `out`, a flat list that holds three other values, and answers the rest as bytes: solo
-- (1), more (1), solo_waiting (1), microseconds until the next due job (8; all ones if there is none).
local function claim(ask, out)
  if meta.paused then
    return '\0\0\0' .. LOOK_NONE
  end
  if before.shelved > 0 or moved then
    job.clear_shelves(ask.kind_list, ask.max_items)
  end
  if before.delayed > 0 or moved then
    job.promote_due(PROMOTE_ITEMS_MAX)
  end
  taken.first_out = #out
  local laned = is_laned()
  if laned then
    lanes.bring_back()
  end
  local look_at = ask.alone and (before.solo > 0 or moved) and job.claim_solo(ask, out) or nil
  local is_solo = taken.count > 0
  if laned and not is_solo then
    job.serve_lanes(ask, out)
  elseif not is_solo then
    local members = call('ZRANGE', K.LINE, 0, ask.max_items - 1)
    local looked_at = claim_from(members, ask, out, ask.max_items)
    if looked_at > 0 then
      call('ZREMRANGEBYRANK', K.LINE, 0, looked_at - 1)
    end
  end
  write_claims(ask)
  if #heirs > 0 then
    job.place_heirs()
  end
  laned = laned or is_laned()
  local more, lanes_at
  if laned then
    more, lanes_at = lanes.look_ahead()
    -- Something may be held until an instant that never comes.
    look_at = math.min(look_at or math.huge, lanes_at or math.huge)
    look_at = look_at < math.huge and look_at or nil
  else
    more = call('ZCARD', K.LINE) > 0
  end
  if before.delayed > 0 or moved then
    local at = tonumber(call('ZRANGE', K.DELAYED_SET, 0, 0, 'WITHSCORES')[2])
    if at then
      look_at = math.min(look_at or at, at)
      more = more or at <= now
    end
  end
  local look = LOOK_NONE
  if look_at then
    look = look_at >= EXACT_MAX and MAX8 or pack('>i8', math.max(look_at - now, 0))
  end
  if not more and (before.shelved > 0 or moved) then
    for i = 1, #ask.kind_list do
      local shelf = call('HGET', K.KINDS, ask.kind_list[i])
      more = more or (shelf and call('ZCOUNT', K.SHELVES, shelf * 256, shelf * 256 + 255) > 0)
    end
  end
  if more then
    hint_work = true
  end
  local solo_waiting = before.solo > 0
  if moved or ask.alone then
    solo_waiting = call('ZCARD', K.SOLO_LINE) > 0
  end
  return (is_solo and '\1' or '\0') .. (more and '\1' or '\0') .. (solo_waiting and '\1' or '\0') .. look
end
