#!lua flags=allow-oom
-- Take back the snapshot of a dropped table, and trim its log to the record that dropped it, if the log still holds that record:
-- Redis may have forgotten it, and with it that the table was dropped. What it has then is all there is.
-- KEYS: 1 manifest, 2 log, then the chunks of its snapshot.
-- ARGV: 1 position of the drop, 2 seconds that chunks live on after nothing refers to them.
-- Answers 1, or 0 if the record is gone.
if #redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1]) == 0 then return 0 end
redis.call('DEL', KEYS[1])
for i = 3, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[2]) end
redis.call('XTRIM', KEYS[2], 'MINID', ARGV[1])
return 1
