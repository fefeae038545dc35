-- Claim: shelves, due jobs, the solo line, and then the line itself. Each job looked at leaves the head of its line
-- (claimed, failed, or put on a shelf), so nobody scans past jobs that can't be run here. Jobs that were never claimed
-- before share their whole entry but for what they bring along, so they are collected and written together.

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

-- Claims as asked. Adds the claims to `out`, a flat list that holds three other values, and answers the rest as bytes: solo
-- (1), more (1), 1 for solo_waiting or 2 for solo_held (1), microseconds until the next due job (8; all ones if there is none).
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
  -- Before the lanes are served: they may take the room that a solo job would have had.
  local solo, look_at = 0, math.huge
  if before.solo > 0 or moved then
    solo, look_at = job.claim_solo(ask, out)
  end
  local is_solo = taken.count > 0
  if laned and not is_solo then
    lanes.claim(ask, out)
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
    look_at = math.min(look_at, lanes_at or math.huge)
  else
    more = call('ZCARD', K.LINE) > 0
  end
  if before.delayed > 0 or moved then
    local at = tonumber(call('ZRANGE', K.DELAYED_SET, 0, 0, 'WITHSCORES')[2])
    if at then
      look_at = math.min(look_at, at)
      more = more or at <= now
    end
  end
  local look = LOOK_NONE
  if look_at < math.huge then
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
  return (is_solo and '\1' or '\0') .. (more and '\1' or '\0') .. char(solo) .. look
end
