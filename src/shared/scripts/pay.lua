-- Takes tokens that were spent without asking; one burst at most. KEYS: bucket. ARGV: period and window in
-- microseconds, tokens.
local window = tonumber(ARGV[2])
local ahead = bucket(KEYS[1], window)
-- Those who were cut off have kept their shares, so that the bucket cannot be emptier than empty: a new one is no debt.
put_bucket(KEYS[1], math.max(ahead, math.min(ahead + ARGV[1] * ARGV[3], window)))
return 1
