-- Forgets a file, and tells all replicas. A mint under way must not bring it back: its lease is gone, and the tombstone
-- outlives it. KEYS: link, lease, tombstone, deletions, sequence. ARGV: file, tombstone in ms, how many are told, a random
-- number behind which a new sequence begins: one that began at the same number as the last would seem to have no news.
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('SET', KEYS[3], '1', 'PX', ARGV[2])
local number, is_new = count(KEYS[5], tonumber(ARGV[4]))
if is_new or redis.call('TYPE', KEYS[4])['ok'] ~= 'zset' then
  redis.call('DEL', KEYS[4])
end
redis.call('ZADD', KEYS[4], number, ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -1 - ARGV[3])
-- The sequence outlives what it numbers.
redis.call('PEXPIRE', KEYS[4], 3600000)
redis.call('PEXPIRE', KEYS[5], 7200000)
return number
