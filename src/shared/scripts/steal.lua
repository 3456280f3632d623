-- Takes the lease from whoever has it: waiting for that mint takes too long. KEYS: lease. ARGV: holder, lease in ms.
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
