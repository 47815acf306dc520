-- Makes the caller the one that keeps house, or keeps it so. KEYS[1] is `darkroom:{house}:`. ARGV: name, lease_s.
-- Answers whether it is.

local key = P .. 'keeper'
local keeper = redis.call('GET', key)
if keeper and keeper ~= ARGV[3] then
  return 0
end
redis.call('SET', key, ARGV[3], 'PX', math.ceil(tonumber(ARGV[4]) * 1000))
return 1
