-- Which of many files that others mint have something new to see: what LOOK would not call a wait for the same holder. KEYS:
-- link and lease of each. ARGV: of each, the time that the link must be newer than ('' any), and who had the lease; the life of a
-- lease in ms.
local longest = 2 * ARGV[#KEYS + 1]
local changed = {}
for place = 1, #KEYS, 2 do
  local link, lease = text(KEYS[place]), text(KEYS[place + 1])
  local is_new = link and (ARGV[place] == '' or time(link) > ARGV[place])
  local left = redis.call('PTTL', KEYS[place + 1])
  -- Cut, and bounded, as LOOK does it.
  local is_same = lease and string.sub(lease, 1, 64) == ARGV[place + 1] and left > 0 and left <= longest
  changed[#changed + 1] = (is_new or not is_same) and 1 or 0
end
return changed
