-- Which of many files have another lease than somebody had, or none. KEYS: the lease of each. ARGV: who had it.
-- This is asked again and again: one command reads all. What is no text is none.
local leases = redis.call('MGET', unpack(KEYS))
local changed = {}
for place = 1, #KEYS do
  local lease = leases[place]
  -- Cut as LOOK cuts it.
  changed[place] = lease and string.sub(lease, 1, 64) == ARGV[place] and 0 or 1
end
return changed
