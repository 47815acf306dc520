-- Gives a begun attempt back, uncounted. ARGV: id, attempt, seconds until it is due. Answers
-- whether it was applied.

regardless()
local id, attempt = ARGV[3], tonumber(ARGV[4])
local key = P .. 'hook:' .. id
local now = redis.call('HMGET', key, 'status', 'attempt')
if now[1] ~= 'pending' or tonumber(now[2]) + 1 ~= attempt then
  return 0
end
redis.call('HDEL', key, 'until')
redis.call('ZADD', P .. 'hooks', seconds(NOW + tonumber(ARGV[5])), id)
return 1
