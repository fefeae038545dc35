-- Gives back a token that nobody made use of, for an idle worker elsewhere, unless there is another by now.
--
-- Arguments: none.
-- Answer: nothing.
-- Errors: none of its own.
-- Work: constant.
if call('LLEN', K.WAKE) == 0 then
  call('LPUSH', K.WAKE, '1')
end
return false
