-- In front of other scripts. No script asks what time it is, and each names all its keys.

-- The text of a key; false where there is none, or where somebody put something else there.
local function text(key)
  local value = redis.pcall('GET', key)
  return type(value) == 'string' and value
end

-- A counter, one further. It begins anew behind `base` where it is missing, or somebody put something else there, which is told
-- by the second result.
local function count(key, base)
  local value = text(key)
  if value and #value < 15 and (value == '0' or string.match(value, '^[1-9]%d*$')) then
    return redis.call('INCR', key), false
  end
  -- BEAT deletes nothing before: a tier that is full would let it write in spite of that.
  redis.call('SET', key, string.format('%.0f', base + 1))
  return base + 1, true
end

-- The time in a sealed value, as text: of two, the later is the greater.
local function time(sealed)
  return string.sub(sealed, 3, 18)
end
