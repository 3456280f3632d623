-- Takes tokens that the bucket was not asked for: some until it is empty at most, and some also beyond that. KEYS: bucket. ARGV:
-- period and window in microseconds, tokens, tokens beyond, how many tokens the bucket is known to have given, and how far ahead it
-- was then.
local period, window, tokens, beyond = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local ahead, given = bucket(KEYS[1], window, tonumber(ARGV[5]), tonumber(ARGV[6]))
-- Those who were cut off have kept their shares, so that the bucket cannot be emptier than empty: a new one is no debt.
local paid = math.max(ahead, math.min(ahead + period * tokens, window)) + period * beyond
put_bucket(KEYS[1], math.min(paid, window + LONGEST_QUEUE), given + tokens + beyond)
return 1
