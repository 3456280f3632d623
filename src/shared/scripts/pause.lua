-- kie.ai wants to be left alone: the longer pause holds. KEYS: pause. ARGV: pause in ms.
local left = redis.call('PTTL', KEYS[1])
local pause = math.min(tonumber(ARGV[1]), 120000)
if left > 120000 or left < pause then
  redis.call('SET', KEYS[1], '1', 'PX', pause)
  left = pause
end
return left
