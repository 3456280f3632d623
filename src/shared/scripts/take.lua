-- Takes a token for one request to kie.ai, now or within the wait. Only a token that is given is counted.
-- KEYS: bucket, pause. ARGV: period, window (a whole burst) and longest wait in microseconds, tokens that must be left, how many
-- tokens the bucket is known to have given, and how far ahead it was then.
local pause = redis.call('PTTL', KEYS[2])
if pause > 120000 then
  -- The tier's clock was set back.
  pause = 10000
  redis.call('PEXPIRE', KEYS[2], pause)
end
if pause > 0 then
  return {'paused', pause}
end
local period, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local ahead, given = bucket(KEYS[1], window, tonumber(ARGV[5]), tonumber(ARGV[6]))
local wait = ahead + period * (1 + ARGV[4]) - window
if wait > tonumber(ARGV[3]) then
  return {'full', math.ceil(wait / 1000)}
end
put_bucket(KEYS[1], ahead + period, given + 1)
return {'go', math.ceil(math.max(0, ahead + period - window) / 1000), level(ahead + period, given + 1)}
