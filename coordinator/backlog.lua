#!lua flags=no-writes
-- How much of a table waits, and how long it has.  KEYS: 1 ingest, 2 log.
-- Answers {entries in ingest, the oldest one's id, or '' if there is none, entries of the log, seconds, microseconds of Redis's clock}.
local oldest = ''
local waiting = redis.call('XLEN', KEYS[1])
if waiting > 0 then
  oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1]
end
local time = redis.pcall('TIME')
if time.err then time = {'0', '0'} end
return {waiting, oldest, redis.call('XLEN', KEYS[2]), time[1], time[2]}
