#!lua
-- Write entries to ingest, all or none: a full Redis refuses the script before it begins.
-- KEYS: ingest.  ARGV: producer, then four for each entry: op, format ('' if it has no data), data, seq.
-- Answers {id of the first, id of the last, how many are in ingest now}.
local first, last
for i = 2, #ARGV, 4 do
  if ARGV[i + 1] == '' then
    last = redis.call('XADD', KEYS[1], '*', 'op', ARGV[i], 'producer', ARGV[1], 'seq', ARGV[i + 3])
  else
    last = redis.call('XADD', KEYS[1], '*', 'op', ARGV[i], 'format', ARGV[i + 1], 'data', ARGV[i + 2],
      'producer', ARGV[1], 'seq', ARGV[i + 3])
  end
  first = first or last
end
return {first, last, redis.call('XLEN', KEYS[1])}
