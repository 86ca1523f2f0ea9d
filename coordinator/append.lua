#!lua flags=allow-oom
-- The only writer of a log. In one call: compare the top, append, take what was carried out of ingest, move what was refused, publish.
-- Without records and refusals it is the heartbeat: the same comparison, then the true top is published.
--
-- KEYS: 1 log, 2 ingest, 3 rejected, 4 manifest, 5 want, 6 verify
-- ARGV: 1 expected top, 2 feed channel, 3 sender, 4 cap of rejected,
--       5 n, then n pairs (id, record)
--       then m, m ingest ids that these records carry
--       then k, k pairs (ingest id, reason) of refused entries
--       then manifest position and body to set ('' and '': none), c, c names of its chunks (made permanent)
-- Answers {'yes' or 'no', true top, 1 if somebody wants a snapshot, 1 if somebody asks for a verify,
--          'held', 'unheld' or 'none': whether a manifest is there and the log holds its position}
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

local at = 5
local function count()
  local n = tonumber(ARGV[at])
  at = at + 1
  return n
end

local records = {}
for _ = 1, count() do
  redis.call('XADD', log, ARGV[at], 'r', ARGV[at + 1])
  top = ARGV[at]
  records[#records + 1] = ARGV[at + 1]
  at = at + 2
end

local done = {}
for _ = 1, count() do
  done[#done + 1] = ARGV[at]
  at = at + 1
end

for _ = 1, count() do
  local id, reason = ARGV[at], ARGV[at + 1]
  at = at + 2
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

local position, body = ARGV[at], ARGV[at + 1]
at = at + 2
if position ~= '' then
  for _ = 1, count() do
    redis.call('PERSIST', ARGV[at])
    at = at + 1
  end
  redis.call('DEL', manifest)
  redis.call('HSET', manifest, 'position', position, 'body', body)
end

for _, record in ipairs(records) do
  redis.call('PUBLISH', ARGV[2], record)
end
if #records == 0 and #done == 0 then
  redis.call('PUBLISH', ARGV[2], 'PH ' .. top .. ' ' .. ARGV[3])
end

local wanted = redis.call('DEL', KEYS[5])
local verify = redis.call('DEL', KEYS[6])
local held = 'none'
local stands = redis.call('HGET', manifest, 'position')
if stands then
  held = (stands == top or #redis.call('XRANGE', log, stands, stands) > 0) and 'held' or 'unheld'
end
return {'yes', top, wanted, verify, held}
