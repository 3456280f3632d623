-- Of each file: its link, who mints it, or the leave to mint it oneself. KEYS: beacon; of each file, link and lease. ARGV: a
-- lease's life in ms; of each file, the holder ('' only looks) and the time that the link must be newer than.
-- Many files are asked about at once: one command reads all. What is no text is none.
local values = redis.call('MGET', unpack(KEYS))
-- Leases that this trip has set.
local leased = {}
local function look(place)
  local link, lease_key, holder = fitting(values[place]), KEYS[place + 1], ARGV[place]
  if link and time(link) > tonumber(ARGV[place + 1]) then
    return {'hit', link, fitting(values[1])}
  end
  local lease = leased[lease_key] or fitting(values[place + 1])
  if lease and lease ~= holder then
    if string.sub(lease, 1, 1) == '!' then
      if holder == '' then
        return {'failed', string.sub(lease, 2)}
      end
    -- No holder's name has other bytes, and an answer with them might not be read.
    elseif string.find(lease, '^[!-~]+$') then
      -- A lease that lasts longer than any lease was taken before somebody set the tier's clock back.
      local left = redis.call('PTTL', lease_key)
      if left > 0 and left <= 2 * ARGV[1] then
        -- No holder has a longer name; whatever somebody put there is not to come with each look.
        return {'wait', left, string.sub(lease, 1, LONGEST_NAME)}
      end
    end
  end
  if holder == '' then
    return {'free'}
  end
  redis.call('SET', lease_key, holder, 'PX', ARGV[1])
  leased[lease_key] = holder
  return {'mine'}
end
local looks = {}
for place = 2, #KEYS, 2 do
  looks[place / 2] = look(place)
end
return looks
