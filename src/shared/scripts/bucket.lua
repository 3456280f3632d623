-- In front of the scripts that know the bucket of requests to kie.ai. The bucket is a time: when it would be full again (GCRA). It
-- rests as the key's own time to live, so that no script asks what time it is, plus an hour, so that the key is still
-- there when the bucket is full; what is no whole millisecond of it is the key's value. All in microseconds.
local HOUR = 3600 * 1000000

local function put_bucket(key, ahead)
  local whole = math.floor((ahead + HOUR) / 1000)
  redis.call('SET', key, ahead + HOUR - whole * 1000, 'PX', whole)
end

-- How far ahead the bucket's time is: nothing where it is full, `window` where it is empty. A new bucket is empty, and
-- kept: a tier that forgets must not give the burst twice.
local function bucket(key, window)
  local left = redis.call('PTTL', key)
  if left < 0 then
    put_bucket(key, window)
    return window
  end
  local rest = tonumber(redis.pcall('GET', key)) or 0
  -- Written so that it holds for what is no number, too.
  if not (rest >= 0 and rest < 1000) then
    rest = 0
  end
  local ahead = math.max(0, left * 1000 + math.floor(rest) - HOUR)
  -- Nobody queues for two minutes: the tier's clock was set back.
  if ahead > window + 120 * 1000000 then
    put_bucket(key, window)
    return window
  end
  return ahead
end
