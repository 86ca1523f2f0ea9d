#!lua flags=allow-oom
-- Set a string for some seconds, even where Redis is full: it holds what is needed to make room again.
-- KEYS: the string, then perhaps a set.  ARGV: value, seconds, then perhaps what is added to the set.
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
if KEYS[2] then redis.call('SADD', KEYS[2], ARGV[3]) end
