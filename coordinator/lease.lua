#!lua flags=allow-oom
-- Change the lease if it is what the caller saw.  KEYS: lease.  ARGV: seen ('' if absent), new ('' to give it up).
-- Answers {1, new} if it was changed, else {0, what it is}.
local now = redis.call('GET', KEYS[1]) or ''
if now ~= ARGV[1] then return {0, now} end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2])
end
return {1, ARGV[2]}
