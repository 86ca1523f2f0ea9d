#!lua flags=allow-oom
-- What is in ingest, from its start; and a note of what is being tried, so that an entry that kills its reader is found.
-- KEYS: 1 ingest, 2 trying.  ARGV: 1 most entries, 2 bytes after which no more are taken, 3 bytes that one entry may have,
-- 4 who asks.
-- Answers {entries, how many there are in all, how often the first one was tried alone before}; each entry is
-- {id, {field, value, ...}}, or {id, its size} if it is larger than one may be; at least one entry where there is one.
--
-- `trying` is deleted by append when it is done. What is left of it tells that a reader died, or lost Redis: after two such
-- attempts the entries are given out one at a time, until the last one of that batch is through.
local ingest, trying = KEYS[1], KEYS[2]
local most, budget = tonumber(ARGV[1]), tonumber(ARGV[2])

local backlog = redis.call('XLEN', ingest)
if backlog == 0 then return {{}, 0, 0} end

local suspect = redis.call('HGET', trying, 'suspect')
if not suspect and tonumber(redis.call('HGET', trying, 'attempts') or 0) >= 2 then
  suspect = redis.call('HGET', trying, 'last')
  redis.call('HSET', trying, 'suspect', suspect)
end
if suspect then
  if #redis.call('XRANGE', ingest, '-', suspect, 'COUNT', 1) > 0 then
    most = 1
  else
    redis.call('DEL', trying)
  end
end

local out, weight, start = {}, 0, '-'
local is_full = false
while #out < most and weight < budget and not is_full do
  local entries = redis.call('XRANGE', ingest, start, '+', 'COUNT', math.min(64, most - #out))
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    local size = 0
    for _, part in ipairs(entry[2]) do size = size + #part end
    if #out > 0 and weight + size > budget and size <= tonumber(ARGV[3]) then
      is_full = true
      break
    end
    if size > tonumber(ARGV[3]) then
      out[#out + 1] = {entry[1], size}
      size = 0
    else
      out[#out + 1] = entry
    end
    weight = weight + size
    start = '(' .. entry[1]
  end
end

local alone = 0
if #out == 1 then
  alone = redis.call('HINCRBY', trying, 'alone ' .. out[1][1], 1) - 1
end
redis.call('HSET', trying, 'last', out[#out][1], 'owner', ARGV[4])
redis.call('HINCRBY', trying, 'attempts', 1)
return {out, backlog, alone}
