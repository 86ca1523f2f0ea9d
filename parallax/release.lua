-- Give back what is held under a key, if it is still held with this value.
-- KEYS[1] the key; ARGV[1] the value
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
