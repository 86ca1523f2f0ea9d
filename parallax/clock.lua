#!lua flags=no-writes
-- What time it is for the server that has the key, by which it numbers what is added to streams.  KEYS: any of that server.
-- Answers {seconds, microseconds}.
return redis.call('TIME')
