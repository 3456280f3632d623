-- Which of many files that others mint have something new to see: a value that will do, or another lease. KEYS: link and lease
-- of each. ARGV: of each, the time that the link must be newer than ('' any), and who had the lease.
local changed = {}
for place = 1, #KEYS, 2 do
  local link, lease = text(KEYS[place]), text(KEYS[place + 1])
  local is_new = link and (ARGV[place] == '' or time(link) > ARGV[place])
  -- Cut as LOOK cuts it.
  local is_other = not lease or string.sub(lease, 1, 64) ~= ARGV[place + 1]
  changed[#changed + 1] = (is_new or is_other) and 1 or 0
end
return changed
