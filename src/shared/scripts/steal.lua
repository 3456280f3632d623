-- Takes the lease from a holder that was waited for too long. Of many who waited for it one gets the lease, and the
-- others wait for that one. KEYS: lease. ARGV: holder, lease in ms, from whom.
-- Cut as LOOK cuts it.
if string.sub(text(KEYS[1]) or '', 1, LONGEST_NAME) ~= ARGV[3] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
