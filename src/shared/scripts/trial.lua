-- Whether scripts may write here, with every command that any of them uses: a user who may not use one would share nothing, or be
-- deaf to deletions, and nobody would know. KEYS: trial, which is gone afterwards. It sets something first, whatever is there:
-- behind a DEL, a tier that is full would let it write in spite of that.
local key = KEYS[1]
redis.call('SET', key, '1', 'PX', 1000)
redis.call('GET', key)
redis.call('MGET', key)
redis.call('INCR', key)
redis.call('EXISTS', key)
redis.call('TYPE', key)
redis.call('PTTL', key)
redis.call('DEL', key)
redis.call('HSET', key, 'a', '1')
redis.call('PEXPIRE', key, 1000)
redis.call('HGET', key, 'a')
redis.call('HDEL', key, 'a')
redis.call('ZADD', key, 1, 'a')
redis.call('PEXPIRE', key, 1000)
redis.call('ZCARD', key)
redis.call('ZCOUNT', key, 1, 1)
redis.call('ZRANGE', key, 0, 0)
redis.call('ZRANGEBYSCORE', key, 1, 1)
redis.call('ZREMRANGEBYRANK', key, 1, 1)
redis.call('ZREMRANGEBYSCORE', key, 2, 2)
redis.call('ZREM', key, 'a')
return 1
