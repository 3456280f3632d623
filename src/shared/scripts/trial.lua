-- Whether scripts may write here, and read many keys at once: one whose user may not would find that out by each POLL. KEYS: trial.
redis.call('SET', KEYS[1], '1', 'PX', 1000)
redis.call('MGET', KEYS[1])
return 1
