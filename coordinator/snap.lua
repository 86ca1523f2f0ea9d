#!lua flags=allow-oom
-- Publish a snapshot and trim the log behind the one before it, in one call.
-- KEYS: 1 manifest, 2 log, then the chunks.  ARGV: position, manifest body, seconds that replaced chunks live on, count of old chunks, their names.
-- Answers 'yes', or why not: 'chunk' (one is gone), 'log' (it does not hold the position), 'newer' (the present manifest is newer here).
local position = ARGV[1]
for i = 3, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then return 'chunk' end
end

local last = '0-0'
if redis.call('EXISTS', KEYS[2]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[2])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
end
local function holds(id)
  return id == last or #redis.call('XRANGE', KEYS[2], id, id) > 0
end
if not holds(position) then return 'log' end

local present = redis.call('HGET', KEYS[1], 'position')
local is_held = present and holds(present)
if is_held then
  -- Both are in this log, so its own order tells which is newer. IDs do not fit Lua's numbers: Redis compares them.
  if present == position or #redis.call('XRANGE', KEYS[2], '(' .. position, present, 'COUNT', 1) > 0 then return 'newer' end
end

redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'position', position, 'body', ARGV[2])
for i = 3, #KEYS do redis.call('PERSIST', KEYS[i]) end
for i = 5, 4 + tonumber(ARGV[4]) do redis.call('EXPIRE', ARGV[i], ARGV[3]) end
if is_held then redis.call('XTRIM', KEYS[2], 'MINID', present) end
return 'yes'
