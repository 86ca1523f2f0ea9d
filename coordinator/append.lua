#!lua flags=allow-oom
-- The only writer of a log. In one call: compare the top, append, take what was carried out of ingest, move what was refused, publish.
-- Without records and refusals it is the heartbeat: the same comparison, then the true top is published.
--
-- KEYS: 1 log, 2 ingest, 3 rejected, 4 manifest, 5 want, 6 verify, 7 blobs, 8 trying, 9 the feed, a channel
-- ARGV: 1 expected top, 2 PUBLISH, or in a cluster SPUBLISH, 3 sender, 4 and 5 cap of rejected, in entries and in bytes,
--       6 n, then n pairs (id, record)
--       then m, m ingest ids that these records carry
--       then k, k pairs (ingest id, reason) of refused entries
--       then b, b groups (position, "name count" as kept in blobs, c, c names of chunks) of payloads beside the log
--       then manifest position and body to set ('' and '': none), c, c names of its chunks
-- Chunks that are referred to are made permanent; if one is gone, nothing is done.
-- Answers {'yes', 'no' (the top is another) or 'chunk' (one is gone), true top, 1 if somebody wants a snapshot, 1 if somebody asks for a verify,
--          'held', 'unheld' or 'none': whether a manifest is there and the log holds its position,
--          and to a heartbeat, if Redis is nearly full, the per cent that are used}
local log, ingest, rejected, manifest = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local function last_id(key)
  if redis.call('EXISTS', key) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', key)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end

local top = last_id(log)
if top ~= ARGV[1] then
  return {'no', top, 0, 0, ''}
end

local at = 6
local function count()
  local n = tonumber(ARGV[at])
  at = at + 1
  return n
end

-- Read everything before anything is written: a script that fails half-way is not undone.
local records = {}
for i = 1, count() do
  records[i] = {ARGV[at], ARGV[at + 1]}
  at = at + 2
end
local done = {}
for i = 1, count() do
  done[i] = ARGV[at]
  at = at + 1
end
local refused = {}
for i = 1, count() do
  refused[i] = {ARGV[at], ARGV[at + 1]}
  at = at + 2
end
local chunks = {}
local function read_chunks()
  for _ = 1, count() do
    if redis.call('EXISTS', ARGV[at]) == 0 then return false end
    chunks[#chunks + 1] = ARGV[at]
    at = at + 1
  end
  return true
end
local blobs = {}
for i = 1, count() do
  blobs[i] = {ARGV[at], ARGV[at + 1]}
  at = at + 2
  if not read_chunks() then return {'chunk', top, 0, 0, ''} end
end
local position, body = ARGV[at], ARGV[at + 1]
at = at + 2
if position ~= '' and not read_chunks() then return {'chunk', top, 0, 0, ''} end

for _, record in ipairs(records) do
  redis.call('XADD', log, record[1], 'r', record[2])
  top = record[1]
end

for _, refusal in ipairs(refused) do
  local id, reason = refusal[1], refusal[2]
  local entry = redis.call('XRANGE', ingest, id, id)[1]
  if entry then
    local fields = {'reason', reason, 'entry', id}
    for _, part in ipairs(entry[2]) do fields[#fields + 1] = part end
    redis.call('XADD', rejected, 'MAXLEN', ARGV[4], '*', unpack(fields, 1, math.min(#fields, 200)))
    done[#done + 1] = id
  end
end

for first = 1, #done, 1000 do
  redis.call('XDEL', ingest, unpack(done, first, math.min(first + 999, #done)))
end

if #refused > 0 then
  -- Halved until it fits; the newest stays, however large it is.
  while redis.call('XLEN', rejected) > 1 and redis.call('MEMORY', 'USAGE', rejected, 'SAMPLES', 0) > tonumber(ARGV[5]) do
    redis.call('XTRIM', rejected, 'MAXLEN', math.floor(redis.call('XLEN', rejected) / 2))
  end
end

if #done > 0 then
  -- What was tried is done. While suspects go one at a time, only this one is.
  if redis.call('HEXISTS', KEYS[8], 'suspect') == 1 then
    for _, id in ipairs(done) do redis.call('HDEL', KEYS[8], 'alone ' .. id) end
    redis.call('HDEL', KEYS[8], 'attempts', 'last')
  else
    redis.call('DEL', KEYS[8])
  end
end

for _, chunk in ipairs(chunks) do redis.call('PERSIST', chunk) end
for _, blob in ipairs(blobs) do redis.call('HSET', KEYS[7], blob[1], blob[2]) end
if position ~= '' then
  redis.call('HSET', manifest, 'position', position, 'body', body)
end

for _, record in ipairs(records) do
  redis.call(ARGV[2], KEYS[9], record[2])
end
if #records == 0 and #done == 0 then
  redis.call(ARGV[2], KEYS[9], 'PH ' .. top .. ' ' .. ARGV[3])
end

local wanted = redis.call('DEL', KEYS[5])
local verify = redis.call('DEL', KEYS[6])
local held = 'none'
local stands = redis.call('HGET', manifest, 'position')
if stands then
  held = (stands == top or #redis.call('XRANGE', log, stands, stands) > 0) and 'held' or 'unheld'
end
local answer = {'yes', top, wanted, verify, held}
if #records == 0 and #done == 0 then
  local info = redis.pcall('INFO', 'memory')
  if type(info) == 'string' then
    local used, most = tonumber(string.match(info, 'used_memory:(%d+)')), tonumber(string.match(info, 'maxmemory:(%d+)'))
    if used and most and most > 0 and used > 0.9 * most then answer[6] = math.floor(100 * used / most) end
  end
end
return answer
