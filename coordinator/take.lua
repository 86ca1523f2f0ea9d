#!lua flags=no-writes
-- What is in ingest, from its start.  KEYS: ingest.  ARGV: most entries, bytes after which no more are taken.
-- Answers {entries, how many there are in all}, each entry {id, {field, value, ...}}; at least one where there is one.
local out, weight, start = {}, 0, '-'
local most, budget = tonumber(ARGV[1]), tonumber(ARGV[2])
while #out < most and weight < budget do
  local entries = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', math.min(64, most - #out))
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    local size = 0
    for _, part in ipairs(entry[2]) do size = size + #part end
    if #out > 0 and weight + size > budget then
      return {out, redis.call('XLEN', KEYS[1])}
    end
    out[#out + 1] = entry
    weight = weight + size
    start = '(' .. entry[1]
  end
end
return {out, redis.call('XLEN', KEYS[1])}
