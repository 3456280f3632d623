-- Takes tokens that were spent without asking; one burst at most. KEYS: bucket. ARGV: period and window in
-- microseconds, tokens.
local window = tonumber(ARGV[2])
put_bucket(KEYS[1], bucket(KEYS[1], window) + math.min(ARGV[1] * ARGV[3], window))
return 1
