-- A page of a batch's members, with their payloads.
--
-- Arguments: the clock's reading, or ''; the lease of the batch's leader: id (16) and epoch (8); the seq after which the page
--   begins, or ''; how many members, and how many bytes of payload.
-- Answer: '\0', '\1' if the batch has all its members, else '\0', and the seq after which the next page begins (7 bytes), if there is
--   one; or '\2' lease lost, '\3' gone; then per member its id, its spec, and its entry (without the worker) with the counters that it
--   has bearing what the batch has spent, and its checkpoint.
-- Errors: FERROQ_SCHEMA.
-- Work: proportional to the members and to their bytes, about 4 microseconds each.
local refused = look(ARGV[1])
if refused then
  return refused
end
local leader = exists and job.load(sub(ARGV[2], 1, 16))
if not leader then
  return { '\3' }
end
local b = batches.led(leader, sub(ARGV[2], 17, 24))
if not b then
  return { '\2' }
end
local number_of_batch, max_items, max_bytes = leader.batch, tonumber(ARGV[4]), tonumber(ARGV[5])
local at = ARGV[3] == '' and call('ZCOUNT', K.BLOCKED_SET, '-inf', '(' .. number_of_batch)
  or passed(K.BLOCKED_SET, number_of_batch, tonumber(ARGV[3]))
local till = call('ZCOUNT', K.BLOCKED_SET, '-inf', number_of_batch)
local reply, spent = { '' }, batches.spent_by(leader)
local count, bytes, last, next = 0, 0, '', ''
-- A few at first, and then as many as these let expect to fit.
local want = 16
while at < till and next == '' do
  local members = call('ZRANGE', K.BLOCKED_SET, at, math.min(at + want, till) - 1)
  at = at + #members
  local ids = {}
  for i = 1, #members do
    ids[i] = sub(members[i], 8)
  end
  local blobs, entries = get_many(K.SPEC, ids), get_many(K.RUN, ids)
  for i = 1, #members do
    local blob, entry = blobs[i], entries[i]
    local j = blob and entry and #blob >= HEAD_MIN and is_entry(entry) and job.of(ids[i], blob, entry, members[i])
    local parts = j and not j.unreadable and j.batch and job.parts_of(blob)
    -- What can't be read is left out.
    if parts then
      bytes = bytes + parts.payload_len
      if count == max_items or count > 0 and bytes > max_bytes then
        next = last
        break
      end
      batches.bear(j, spent, true)
      local head = job.entry(j)
      head = sub(head, 1, head_len(byte(head, 36)))
      if has(j.mask, N.CHECKPOINT) then
        head = head .. (call('HGET', K.NOTES, j.id .. 'c') or '')
      end
      local n = #reply
      reply[n + 1], reply[n + 2], reply[n + 3] = j.id, blob, head
      count, last = count + 1, sub(members[i], 1, 7)
    end
  end
  want = math.max(1, math.min(READ_MAX, max_items - count + 1, math.floor((max_bytes - bytes) / math.max(bytes / math.max(count, 1), 1)) + 1))
end
reply[1] = '\0' .. (batches.is_formed(b) and '\1' or '\0') .. next
return reply
