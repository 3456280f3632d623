-- Keeps the leases that are still the holder's own. KEYS: leases. ARGV: lease in ms, the holder of each.
local mine = {}
for place, key in ipairs(KEYS) do
  if text(key) == ARGV[place + 1] then
    redis.call('PEXPIRE', key, ARGV[1])
    mine[place] = 1
  else
    mine[place] = 0
  end
end
return mine
