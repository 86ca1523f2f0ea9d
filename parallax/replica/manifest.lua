#!lua flags=no-writes
-- One atomic look at what a replica may start from.  KEYS: manifest, log.
-- Answers {manifest, or '' if there is none, 1 if the log holds its position else 0}.
local body = redis.call('HGET', KEYS[1], 'body')
if not body then
  return {'', 0}
end
local position = redis.call('HGET', KEYS[1], 'position')
if redis.call('EXISTS', KEYS[2]) == 0 then
  return {body, 0}
end
if #redis.call('XRANGE', KEYS[2], position, position) > 0 then
  return {body, 1}
end
local info = redis.call('XINFO', 'STREAM', KEYS[2])
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' and info[i + 1] == position then return {body, 1} end
end
return {body, 0}
