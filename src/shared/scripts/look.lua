-- One file: its link, who mints it, or the leave to mint it oneself.
-- KEYS: link, lease, beacon. ARGV: holder ('' only looks), time that the link must be newer than ('' any), lease in ms.
local link, holder = text(KEYS[1]), ARGV[1]
if link and (ARGV[2] == '' or time(link) > ARGV[2]) then
  return {'hit', link, text(KEYS[3])}
end
local lease = text(KEYS[2])
if lease and lease ~= holder then
  if string.sub(lease, 1, 1) == '!' then
    if holder == '' then
      return {'failed', string.sub(lease, 2)}
    end
  else
    -- A lease that lasts longer than any lease was taken before somebody set the tier's clock back.
    local left = redis.call('PTTL', KEYS[2])
    if left > 0 and left <= 2 * ARGV[3] then
      -- No holder has a longer name; whatever somebody put there is not to come with each look.
      return {'wait', left, string.sub(lease, 1, 64)}
    end
  end
end
if holder == '' then
  return {'free'}
end
redis.call('SET', KEYS[2], holder, 'PX', ARGV[3])
return {'mine'}
