-- Which commands the user may send. Runs none of them, and needs no right but that to run a script.
--
-- Arguments: for each command, how many words it has, and the words. No keys: they are only named.
-- Answer: a byte for each command: 1, or 0 if the user may not send it. A command that the server does not know is not a
--   matter of rights.
-- Errors: none.
-- Work: a look at the user's rules for each command, about a microsecond.
local answers, at = {}, 1
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  local is_known, may = pcall(redis.acl_check_cmd, unpack(ARGV, at + 1, at + words))
  answers[#answers + 1] = (may or not is_known) and '\1' or '\0'
  at = at + 1 + words
end
return table.concat(answers)
