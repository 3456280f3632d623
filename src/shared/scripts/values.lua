-- In front of other scripts. No script asks what time it is, and each names all its keys.

-- The text of a key; false where there is none, or where somebody put something else there.
local function text(key)
  local value = redis.pcall('GET', key)
  return type(value) == 'string' and value
end

-- The time in a sealed value, as text: of two, the later is the greater.
local function time(sealed)
  return string.sub(sealed, 3, 18)
end
