-- Which mints of others are over: another lease is there, or none, or a link that will do. KEYS: link and lease of each file. ARGV:
-- of each, the time that the link must be newer than, and who had the lease.
-- This is asked again and again: one command reads all. What is no text is none.
local values = redis.call('MGET', unpack(KEYS))
local over = {}
for place = 1, #KEYS, 2 do
  local link, lease = fitting(values[place]), fitting(values[place + 1])
  local is_new = link and time(link) > tonumber(ARGV[place])
  -- Cut as LOOK cuts it.
  local goes_on = lease and string.sub(lease, 1, LONGEST_NAME) == ARGV[place + 1]
  over[#over + 1] = (is_new or not goes_on) and 1 or 0
end
return over
