#!lua flags=no-writes
-- One atomic look at a log.  KEYS: log.  ARGV: first id (inclusive), bytes that make a page.
-- Answers {last-generated id, or '' if there is no log, {id, record, id, record, ...}}, at least two entries where there are two.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'', {}}
end
local info = redis.call('XINFO', 'STREAM', KEYS[1])
local last = ''
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
end
local out, weight, start, budget = {}, 0, ARGV[1], tonumber(ARGV[2])
while weight < budget or #out < 4 do
  local entries = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', 16)
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    out[#out + 1] = entry[1]
    out[#out + 1] = entry[2][2]
    weight = weight + #entry[2][2]
    start = '(' .. entry[1]
    if weight >= budget and #out >= 4 then break end
  end
end
return {last, out}
