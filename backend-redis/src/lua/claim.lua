-- Claim: shelves, due jobs, the solo line, and then the line itself. Each job looked at leaves the head of its line
-- (claimed, failed, or put on a shelf), so nobody scans past jobs that can't be run here. Jobs that were never claimed
-- before share their whole entry but for what they bring along, so they are collected and written together.

local UNREADABLE = 'the stored job can\'t be read'

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

  -- Fails a job that stands in no line any more.
  function job.fail(j, failure, kind, message)
    job.push_error(j, kind, message)
    event(E.FAILED, j.id)
    job.finish(j, FAILED, failure)
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

-- Claims from one line into `out`: id, spec, and what else the worker has to know. `ask` has max_items, max_bytes, term
-- (as bytes), kinds (as a set), worker.
local function claim_from(line, ask, out)
  local is_solo = line == K.SOLO_LINE
  local members = call('ZRANGE', line, 0, ask.max_items - 1)
  if #members == 0 then
    return
  end
  local ids, blobs, entries = {}, {}, {}
  -- Specs are read a few at first, and then as many as the first ones let expect to fit: a line of large payloads is not
  -- read as a whole for the sake of one.
  local read, read_bytes = 0, 0
  local function read_on()
    local n = READ_FIRST
    if read > 0 then
      n = math.max(1, math.floor((ask.max_bytes - read_bytes) / math.max(read_bytes / read, 1)))
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
    read = till_place
  end
  local till = after(now, ask.term)
  local score = string.format('%.0f', number(till))
  -- The entry of a job that is claimed for the first time: this, then what it brings along, then this.
  local fresh_head = char(ACTIVE) .. next_epoch(NONE8, now)
  local fresh_tail = '\0\0\0\0' .. pack('>I4I4I4', 0, 0, 1) .. now8 .. till .. ask.term .. ask.worker
  local kinds = ask.kinds
  local runs, active, n_out, first_out = {}, {}, #out, #out
  local looked_at, claimed = 0, 0
  -- The payload bytes of the claims; nothing as long as all specs read are fewer, since none is shorter than its payload.
  local bytes
  for i = 1, #members do
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
      job.fail(job.of(id, blob, entry), F.EXPIRED, X.EXPIRED, 'older than expires_in when its turn came')
    elseif not kinds[sub(blob, 27, 26 + byte(blob, 26))] then
      job.shelve(job.of(id, blob, entry), sub(blob, 27, 26 + byte(blob, 26)))
    else
      if bytes or read_bytes > ask.max_bytes then
        if not bytes then
          bytes = 0
          for k = first_out + 2, n_out, 3 do
            bytes = bytes + payload_len(out[k])
          end
        end
        local more = payload_len(blob)
        if claimed > 0 and bytes + more > ask.max_bytes then
          break
        end
        bytes = bytes + more
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
        if has(byte(entry, 36), FLAG_COALESCED) then
          extra = extra .. sub(entry, 75, 78)
        end
        entry = extra .. ask.worker
        if has(byte(entry, 37), N.CHECKPOINT) then
          extra = extra .. (call('HGET', K.NOTES, id .. 'c') or '')
        end
      end
      event(E.STARTED, id)
      claimed = claimed + 1
      local n = claimed * 2
      runs[n - 1], runs[n] = id, entry
      active[n - 1], active[n] = score, members[i]
      out[n_out + 1], out[n_out + 2], out[n_out + 3] = id, blob, extra
      n_out = n_out + 3
    end
    looked_at = i
    if is_solo and claimed > 0 then
      break
    end
  end
  call('ZREMRANGEBYRANK', line, 0, looked_at - 1)
  if claimed > 0 then
    note_term(number(ask.term))
    many('HSET', K.RUN, runs, 2)
    -- Last first: Redis keeps a small sorted set as a list, and finds the place of each at once if it is the front.
    local backwards, n = {}, claimed * 2
    for k = 1, n, 2 do
      backwards[k], backwards[k + 1] = active[n - k], active[n - k + 1]
    end
    many('ZADD', K.ACTIVE_SET, backwards, 2)
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
  if ask.alone then
    claim_from(K.SOLO_LINE, ask, out)
  end
  local is_solo = #out > 3
  if not is_solo then
    claim_from(K.LINE, ask, out)
  end
  if #heirs > 0 then
    job.place_heirs()
  end
  local look, more = LOOK_NONE, call('ZCARD', K.LINE) > 0
  if before.delayed > 0 or moved then
    local at = tonumber(call('ZRANGE', K.DELAYED_SET, 0, 0, 'WITHSCORES')[2])
    if at then
      look = at >= EXACT_MAX and MAX8 or pack('>i8', math.max(at - now, 0))
      more = more or at <= now
    end
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
