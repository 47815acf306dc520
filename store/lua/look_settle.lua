-- Ends an attempt at a second look. ARGV: member, attempt, seconds until the next one, or '' if the duty
-- ends. Answers whether it was applied. It is not if another process has made this attempt.

regardless()
local member, attempt = ARGV[3], tonumber(ARGV[4])
local key = P .. 'review:' .. member
local made = redis.call('HGET', key, 'look_attempt')
if not made or tonumber(made) + 1 ~= attempt then
  return 0
end
if ARGV[5] == '' then
  redis.call('ZREM', P .. 'unlooked', member)
  redis.call('HDEL', key, 'look_owed', 'look_attempt', 'look_until')
else
  redis.call('HSET', key, 'look_attempt', attempt)
  redis.call('HDEL', key, 'look_until')
  redis.call('ZADD', P .. 'unlooked', seconds(NOW + tonumber(ARGV[5])), member)
end
return 1
