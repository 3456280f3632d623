-- kie.ai wants to be left alone: the longer pause holds, and is told. KEYS: pause. ARGV: pause in ms; 0 only asks for that.
local left = redis.call('PTTL', KEYS[1])
local pause = math.min(tonumber(ARGV[1]), 120000)
if left > 120000 or left < pause then
  if pause > 0 then
    redis.call('SET', KEYS[1], '1', 'PX', pause)
  end
  left = pause
end
return left
