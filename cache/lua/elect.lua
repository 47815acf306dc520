-- Makes the caller the one that keeps house, or keeps it so. KEYS[1] is `darkroom:{house}:`. ARGV: name, lease_s.
-- Answers whether it is.

regardless()
local key = P .. 'keeper'
local keeper = redis.call('GET', key)
local lease_ms = math.ceil(tonumber(ARGV[4]) * 1000)
if keeper and keeper ~= ARGV[3] then
  if redis.call('PTTL', key) > lease_ms then
    redis.call('PEXPIRE', key, lease_ms) -- of a clock that was ahead; a keeper that lives asks again
  end
  return 0
end
redis.call('SET', key, ARGV[3], 'PX', lease_ms)
return 1
