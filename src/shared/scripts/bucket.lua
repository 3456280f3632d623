-- In front of the scripts that know the bucket of requests to kie.ai. The bucket is a time: when it would be full again (GCRA). It
-- rests as the key's own time to live, so that no script asks what time it is, plus an hour, so that the key is still there when
-- the bucket is full. The key's value is the number of tokens that the bucket has given, times 1000, plus the microseconds that
-- are no whole millisecond. All times in microseconds.
local HOUR = 3600 * 1000000
-- By so much the tier's clock may be set back unnoticed, or a question be late.
local SET_BACK = 1000000
-- Nobody queues for longer.
local LONGEST_QUEUE = 120 * 1000000

local function put_bucket(key, ahead, given)
  local whole = math.floor((ahead + HOUR) / 1000)
  redis.call('SET', key, string.format('%.0f', given * 1000 + math.floor(ahead + HOUR - whole * 1000)), 'PX', whole)
end

-- How far ahead the bucket's time is, nothing where it is full, `window` where it is empty, and how many tokens it has given. A
-- new bucket is empty: a tier that forgets must not give the burst twice. One that has given fewer than the asker knows of has
-- lost its memory: it is raised to that count, and is as far ahead at least as the asker says. One that has given no more, and is
-- further ahead than empty and than the asker says, was moved by the tier's clock: nobody would have a turn until that is over.
local function bucket(key, window, known_given, known_ahead)
  local left = redis.call('PTTL', key)
  local value = tonumber(text(key) or 0) or 0
  -- Written so that it holds for what is no number, too.
  if not (value >= 0 and value < 2 ^ 51) then
    value = 0
  end
  local given = math.floor(value / 1000)
  local ahead = math.max(0, left * 1000 + math.floor(value) - given * 1000 - HOUR)
  local is_mended = false
  -- It is not there, or the tier's clock was set back, which tells no more than that.
  if left < 0 or ahead > window + LONGEST_QUEUE then
    given, ahead, is_mended = 0, window, true
  end
  if given < known_given then
    given, ahead, is_mended = known_given, math.max(ahead, math.min(known_ahead, window + LONGEST_QUEUE)), true
  elseif given == known_given and ahead > math.max(window, known_ahead) + SET_BACK then
    ahead, is_mended = math.max(window, known_ahead), true
  end
  if is_mended then
    put_bucket(key, ahead, given)
  end
  return ahead, given
end

-- As replicas are told of it. The count is a text, which is not cut to 32 bits anywhere.
local function level(ahead, given)
  return {math.ceil(ahead / 1000), string.format('%.0f', given)}
end
