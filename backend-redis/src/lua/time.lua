-- Storage time in a queue.
--
-- Arguments: the clock's reading, or ''.
-- Answer: the time (8 bytes).
-- Errors: FERROQ_SCHEMA.
-- Work: constant.
return look(ARGV[1]) or now8
