-- What is said of lanes: the rules of the queue, the policies of lanes, and what they come to for one lane. Settings are the
-- client's JSON.

-- A turn that has not begun, and room without a limit.
local CREDIT_FULL = 4294967295

-- Settings are kept as the client's JSON. A value that is not there may be left out, or null.
local function given(value)
  if value ~= cjson.null then
    return value
  end
end

local function rate_from(said)
  if not said then
    return said
  end
  local window, calendar = given(said.per.sliding), given(said.per.calendar)
  return { limit = said.limit, window = window, calendar = calendar and calendar.unit .. ' ' .. calendar.zone }
end

local function limits_of(said)
  said = given(said) or {}
  return { concurrency = given(said.concurrency), rate = rate_from(given(said.rate)) }
end

-- What a policy says: nothing, false for no limit, or the limit.
local function say(said)
  if said == 'unlimited' then
    return false
  end
  return type(said) == 'table' and said.limit or nil
end

local function policy_from(said)
  return { weight = given(said.weight), concurrency = say(said.concurrency), rate = rate_from(say(said.rate)),
    batch = say(said.batch), paused = said.paused }
end

-- What the rules say, once they are needed.
local rules
local function rules_now()
  if not rules then
    local said = meta.rules and cjson.decode(meta.rules)
    rules = said and { quantum = said.lanes.quantum, limits = limits_of(said.limits), every = policy_from(said.lanes.every),
      classes = {} } or { quantum = 8, limits = {}, every = {}, classes = {} }
    for class, policy in pairs(said and said.lanes.classes or {}) do
      local total = limits_of(policy.total)
      rules.classes[class] = { each = policy_from(policy.each), total = (total.concurrency or total.rate) and total }
    end
  end
  return rules
end

local policies = {}
local function policy_of(name)
  if before.policies > 0 and policies[name] == nil then
    local json = call('HGET', K.POLICIES, name)
    policies[name] = json and policy_from(cjson.decode(json)) or false
  end
  return policies[name]
end

local function class_of(name)
  return string.match(name, '^([^/]+)/')
end

-- Terms of a lane: what its own policy, its class's and the one for every lane come to.
local function terms_of(name)
  local r, class = rules_now(), class_of(name)
  local of_class = class and r.classes[class]
  local own = policy_of(name)
  local said = { own or {}, of_class and of_class.each or {}, r.every }
  local terms = { paused = false, total = of_class and of_class.total, class = class }
  local weight
  for i = 1, 3 do
    local s = said[i]
    weight = weight or s.weight
    -- Nothing said is left out; no limit is false.
    if terms.concurrency == nil then
      terms.concurrency = s.concurrency
    end
    if terms.rate == nil then
      terms.rate = s.rate
    end
    if terms.batch == nil then
      terms.batch = s.batch
    end
    terms.paused = terms.paused or s.paused
  end
  terms.turn_jobs = math.max(math.min(r.quantum * (weight or 1), CREDIT_FULL), 1)
  return terms
end
