-- In front of other scripts. No script asks what time it is, and each names all its keys.

-- No replica writes a value that is longer than the first (`seal::MAX_BYTES`), or a name than the second. What is longer would
-- keep the connection from everybody else, or end it.
local LONGEST_VALUE, LONGEST_NAME = 16384, 64

-- A value that was read, where it is a text of a replica's length; else false.
local function fitting(value, longest)
  return type(value) == 'string' and #value <= (longest or LONGEST_VALUE) and value
end

-- The text of a key; false where there is none, or where somebody put something else there.
local function text(key)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' and not string.find(value.err, 'WRONGTYPE', 1, true) then
    -- It may not be read, which is an error here, too.
    value = redis.call('GET', key)
  end
  return fitting(value)
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

-- The time in a sealed value, in ms since 1970; 0 where what is there is none. It is compared as a number: two texts are compared
-- by the server's locale. No calendar here goes beyond 48 bits, and Lua reads no more than 32 at once on some machines.
local function time(sealed)
  local high, low = string.match(sealed, '^%d%u0000(%x%x%x%x)(%x%x%x%x%x%x%x%x)')
  return high and tonumber(high, 16) * 2 ^ 32 + tonumber(low, 16) or 0
end
