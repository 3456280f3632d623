-- Lets a file go, and leaves the error for those who waited for it, if there is one.
-- KEYS: lease. ARGV: holder, sealed error or '', how long that is told in ms.
if text(KEYS[1]) ~= ARGV[1] then
  return 0
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], '!' .. ARGV[2], 'PX', ARGV[3])
end
return 1
