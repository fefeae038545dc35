-- Which of a queue's keys holds something that ferroq did not put there; for the error of a call that met it.
--
-- Arguments: none.
-- Answer: the key's name, or '' if all are as they should be.
-- Errors: none.
-- Work: constant.
local looks = { 'HLEN', 'HLEN', 'HLEN', 'HLEN', 'ZCARD', 'ZCARD', 'ZCARD', 'HLEN', 'ZCARD', 'ZCARD', 'ZCARD', 'ZCARD', 'ZCARD',
  'ZCARD', 'HLEN', 'ZCARD', 'XLEN', 'LLEN', 'ZCARD', 'HLEN', 'HLEN', 'ZCARD', 'ZCARD', 'ZCARD', 'ZCARD', 'HLEN', 'ZCARD', 'HLEN',
  'HLEN', 'ZCARD', 'ZCARD' }
for i = 1, #KEYS do
  local answer = redis.pcall(looks[i], KEYS[i])
  if type(answer) == 'table' and answer.err then
    return KEYS[i]
  end
end
return ''
