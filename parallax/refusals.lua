#!lua flags=no-writes
-- Which entries of a producer were refused.  KEYS: rejected.  ARGV: producer, id to begin at.
-- Answers {id of the last entry looked at or '', {{seq, reason}, ...}}. One entry at a time: they may be large.
local found, last = {}, ''
local from = ARGV[2]
while true do
  local entry = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 1)[1]
  if not entry then return {last, found} end
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  if fields['producer'] == ARGV[1] then
    found[#found + 1] = {fields['seq'] or '0', fields['reason'] or ''}
  end
  last = entry[1]
  from = '(' .. last
end
