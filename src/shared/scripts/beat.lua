-- A replica is alive, and hears what the others have to say. Time is counted in beats, of which each live replica makes
-- one a second. KEYS: beats, members, deletions, sequence, pause, records, beacon, bucket. ARGV: replica, its record, the
-- last deletion it knows (0: none), its beacon or '', 1 where it says goodbye, the bucket's window in microseconds, how many
-- tokens it is known to have given, and how far ahead it was then.
-- What a replica says of itself is shorter. A thousand of them are an answer that a replica still reads.
local LONGEST_RECORD = 1024
local function of_type(key, kind)
  local found = redis.call('TYPE', key)['ok']
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
  end
end
local function names(found)
  local short = {}
  for _, name in ipairs(found) do
    if #name <= LONGEST_NAME then
      short[#short + 1] = name
    end
  end
  return short
end
local id, known_sequence = ARGV[1], tonumber(ARGV[3])
local beat, is_new = count(KEYS[1], 0)
if is_new then
  redis.call('DEL', KEYS[2], KEYS[6])
end
of_type(KEYS[2], 'zset')
of_type(KEYS[3], 'zset')
of_type(KEYS[6], 'hash')
if ARGV[5] == '1' then
  redis.call('ZREM', KEYS[2], id)
  redis.call('HDEL', KEYS[6], id)
else
  redis.call('ZADD', KEYS[2], beat, id)
  redis.call('HSET', KEYS[6], id, ARGV[2])
end
-- Beats may have been lost with the tier: nobody has beaten later than now.
redis.call('ZREMRANGEBYSCORE', KEYS[2], '(' .. beat, '+inf')
-- How many beats a second takes: as many as there are replicas that have beaten within four seconds. Counted from all that are
-- known downwards, so that one that beats in haste does not make the others seem gone.
local beats_a_second, before = math.max(1, redis.call('ZCARD', KEYS[2])), nil
repeat
  before, beats_a_second = beats_a_second, math.max(1, redis.call('ZCOUNT', KEYS[2], beat - 4 * beats_a_second, '+inf'))
until beats_a_second == before
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. beat - 60 * beats_a_second, 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[2], gone)
  redis.call('HDEL', KEYS[6], gone)
end
local live = redis.call('ZRANGEBYSCORE', KEYS[2], beat - 4 * beats_a_second, '+inf', 'LIMIT', 0, 1000)
-- Who was cut off, or has died, without a goodbye keeps its part of the quota: they are among those who are remembered.
local remembered = redis.call('ZCARD', KEYS[2])
local present = redis.call('ZCOUNT', KEYS[2], beat - 3 * beats_a_second, '+inf')
local records = {}
for place, replica in ipairs(names(live)) do
  records[place] = {replica, fitting(redis.call('HGET', KEYS[6], replica), LONGEST_RECORD)}
end
for _, key in ipairs({KEYS[1], KEYS[2], KEYS[6]}) do
  redis.call('PEXPIRE', key, 3600000)
end

local sequence = tonumber(text(KEYS[4]) or 0) or 0
-- Written so that it holds for what is no number, too. Half a number would never be known.
if not (sequence >= 0 and sequence <= 2 ^ 52 and sequence % 1 == 0) then
  sequence = 0
end
redis.call('PEXPIRE', KEYS[4], 7200000)
local forgotten, missed = {}, 0
if known_sequence ~= sequence then
  local oldest = tonumber(redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2])
  -- A file that was forgotten twice is there once, by its last number: a gap shows only where the list is full.
  local is_full = redis.call('ZCARD', KEYS[3]) >= 1000
  local is_gap = not oldest or (is_full and oldest > known_sequence + 1)
  -- A sequence that has begun anew since begins anywhere. Where none is known (0) it has begun for the first time.
  local is_another = sequence < known_sequence or (known_sequence > 0 and sequence > known_sequence + 2 ^ 32)
  if is_another or is_gap then
    missed = 1
  end
  -- The tier has lost its memory: all that it has is news.
  if sequence < known_sequence then
    known_sequence = 0
  end
  forgotten = names(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. known_sequence, '+inf', 'LIMIT', 0, 1000))
end

local beacon, left = text(KEYS[7]), redis.call('PTTL', KEYS[7])
if ARGV[4] ~= '' and (not beacon or time(beacon) < time(ARGV[4])) then
  beacon = ARGV[4]
  redis.call('SET', KEYS[7], beacon, 'PX', 30000)
elseif left == -1 or left > 30000 then
  -- Somebody else put it there, or the tier's clock was set back. It may be the greatest all the same, and ends in time.
  redis.call('PEXPIRE', KEYS[7], 30000)
end
local pause = redis.call('PTTL', KEYS[5])
if pause > 120000 then
  pause = 10000
end
-- A full bucket is kept as long as replicas live: after a quiet hour it would be taken for a new one. One that is missing or
-- spoilt begins empty here: by the time that somebody asks, a spoilt one might look like a long queue.
local ahead, given = bucket(KEYS[8], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]))
if ahead == 0 then
  put_bucket(KEYS[8], 0, given)
end
return {records, sequence, forgotten, missed, math.max(0, pause), beacon, level(ahead, given), present, remembered}
