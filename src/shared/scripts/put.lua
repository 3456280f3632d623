-- Keeps a link or refusal. Whoever has lost the lease may neither bring back what was forgotten meanwhile nor replace
-- what is newer. KEYS: link, lease, tombstone. ARGV: holder, sealed link, life in ms.
local is_mine = text(KEYS[2]) == ARGV[1]
if not is_mine then
  if redis.call('EXISTS', KEYS[3]) == 1 then
    return 'forgotten'
  end
  local link = text(KEYS[1])
  if link and time(link) > time(ARGV[2]) then
    return 'older'
  end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if is_mine then
  redis.call('DEL', KEYS[2])
end
return 'kept'
