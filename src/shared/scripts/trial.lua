-- Whether scripts may write here. KEYS: trial.
redis.call('SET', KEYS[1], '1', 'PX', 1000)
return 1
