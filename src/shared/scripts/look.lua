-- Of each file: its link, who mints it, or the leave to mint it oneself. KEYS: beacon; of each file, link and lease. ARGV: a
-- lease's life in ms; of each file, the holder ('' only looks) and the time that the link must be newer than.
local function look(link_key, lease_key, holder, newer)
  local link = text(link_key)
  if link and time(link) > newer then
    return {'hit', link, text(KEYS[1])}
  end
  local lease = text(lease_key)
  if lease and lease ~= holder then
    if string.sub(lease, 1, 1) == '!' then
      if holder == '' then
        return {'failed', string.sub(lease, 2)}
      end
    else
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
  return {'mine'}
end
local looks = {}
for place = 2, #KEYS, 2 do
  looks[#looks + 1] = look(KEYS[place], KEYS[place + 1], ARGV[place], tonumber(ARGV[place + 1]))
end
return looks
