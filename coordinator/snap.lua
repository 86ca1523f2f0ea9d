#!lua flags=allow-oom
-- Publish a snapshot and trim the log behind the one before it, in one call.
-- KEYS: 1 manifest, 2 log, 3 blobs, then the snapshot's chunks.
-- ARGV: 1 position, 2 manifest body, 3 seconds that chunks live on after nothing refers to them, 4 what the names of chunks begin with,
--       5 count of old chunks, then their names
-- Answers 'yes', or why not: 'chunk' (one is gone), 'log' (it does not hold the position), 'newer' (the present manifest is newer here).
local position = ARGV[1]
for i = 4, #KEYS do
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
  -- One at the same position is replaced: a chunk of it may be gone, or the log in front of it shall make room.
  if #redis.call('XRANGE', KEYS[2], '(' .. position, present, 'COUNT', 1) > 0 then return 'newer' end
end

redis.call('HSET', KEYS[1], 'position', position, 'body', ARGV[2])
for i = 4, #KEYS do redis.call('PERSIST', KEYS[i]) end
for i = 6, 5 + tonumber(ARGV[5]) do redis.call('EXPIRE', ARGV[i], ARGV[3]) end
if is_held then
  redis.call('XTRIM', KEYS[2], 'MINID', present)
  local blobs = redis.call('HGETALL', KEYS[3])
  for i = 1, #blobs, 2 do
    if #redis.call('XRANGE', KEYS[2], blobs[i], blobs[i]) == 0 then
      local name, chunks = string.match(blobs[i + 1], '^(%S+) (%d+)$')
      for number = 0, tonumber(chunks) - 1 do redis.call('EXPIRE', ARGV[4] .. name .. ':' .. number, ARGV[3]) end
      redis.call('HDEL', KEYS[3], blobs[i])
    end
  end
end
return 'yes'
