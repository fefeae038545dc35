-- Numbers as bytes, and commands with many arguments. An instant or a span is eight bytes, big-endian, signed, in
-- microseconds, so that no 64-bit number is squeezed through a double; eight zero bytes stand for none.
local sub, byte, char, find, concat = string.sub, string.byte, string.char, string.find, table.concat
local pack, unpack_bytes = struct.pack, struct.unpack
local call = redis.call

local function number(bytes)
  return (unpack_bytes('>i8', bytes))
end

-- `now + span`, or never.
local function after(now, span)
  local at = now + number(span)
  if at >= EXACT_MAX then
    return MAX8
  end
  return pack('>i8', at)
end

-- A span that is stored as decimal text.
local function span_of(text)
  local span = tonumber(text)
  if span >= EXACT_MAX then
    return MAX8
  end
  return pack('>i8', span)
end

-- The set of the jobs in a state that has one.
local function set_of(state)
  return KEYS[8 + state]
end

local function has(bits, bit)
  return bits % (bit * 2) >= bit
end

-- A command with one key and any number of arguments, in as few calls as the stack allows. `stride` arguments belong
-- together. Answers the sum of what the calls answered.
local function many(command, key, list, stride)
  local n = #list
  if n == 0 then
    return 0
  end
  if n <= ARGS_MAX then
    return call(command, key, unpack(list))
  end
  local step, sum = ARGS_MAX - ARGS_MAX % stride, 0
  for from = 1, n, step do
    sum = sum + call(command, key, unpack(list, from, math.min(from + step - 1, n)))
  end
  return sum
end

-- Whether an entry in `run` can be read.
local function is_entry(e)
  return #e >= ENTRY_MIN and byte(e, 1) <= CANCELLED and byte(e, 35) <= SHELF
end

-- Where the worker begins in an entry with these flags, less one: before it stand the count and the batch of those that have
-- any.
local function head_len(flags)
  return ENTRY_MIN + (flags % 8 >= 4 and 4 or 0) + (flags % 16 >= 8 and 6 or 0)
end

-- HMGET of any number of fields.
local function get_many(key, fields)
  local n = #fields
  if n == 0 then
    return {}
  end
  if n <= ARGS_MAX then
    return call('HMGET', key, unpack(fields))
  end
  local values = {}
  for from = 1, n, ARGS_MAX do
    local some = call('HMGET', key, unpack(fields, from, math.min(from + ARGS_MAX - 1, n)))
    for i = 1, #some do
      values[from + i - 1] = some[i]
    end
  end
  return values
end

-- The epoch after `epoch`: it rises, and is not below storage time.
local function next_epoch(epoch, now)
  local last = number(epoch)
  if last < now then
    return pack('>i8', now)
  end
  if last < EXACT_MAX then
    return pack('>i8', last + 1)
  end
  if epoch == MAX8 then
    return epoch
  end
  local bytes = { byte(epoch, 1, 8) }
  for i = 8, 1, -1 do
    bytes[i] = (bytes[i] + 1) % 256
    if bytes[i] ~= 0 then
      break
    end
  end
  return char(unpack(bytes))
end

-- Whether the start of a spec can be read, and the entry agrees with it and with where the job stands.
local function is_readable(blob, entry, member)
  if not (blob and #blob >= HEAD_MIN and byte(blob, 26) > 0 and #blob >= 33 + byte(blob, 26)) then
    return false
  end
  local seq = sub(blob, 1, 7)
  return find(member, seq, 1, true) == 1
    and (not entry or is_entry(entry) and sub(entry, 10, 16) == seq and byte(entry, 34) == byte(blob, 25))
end

local function payload_len(blob)
  return (unpack_bytes('>I4', blob, 27 + byte(blob, 26)))
end
