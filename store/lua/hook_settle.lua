-- Logs an attempt and its outcome. ARGV: id, attempt, log entry, status, next_in_s. Answers whether
-- it was applied. It is not if another process has made this attempt.

regardless()
local id, attempt, status = ARGV[3], tonumber(ARGV[4]), ARGV[6]
local key, log = P .. 'hook:' .. id, P .. 'hooklog:' .. id
local now = redis.call('HMGET', key, 'status', 'attempt')
if now[1] ~= 'pending' or tonumber(now[2]) + 1 ~= attempt then
  return 0
end
redis.call('RPUSH', log, ARGV[5])
redis.call('PEXPIRE', log, redis.call('PTTL', key))
redis.call('HSET', key, 'status', status, 'attempt', attempt)
redis.call('HDEL', key, 'until', 'next_at')
if status == 'pending' then
  local next_at = seconds(NOW + tonumber(ARGV[7]))
  redis.call('HSET', key, 'next_at', next_at)
  redis.call('ZADD', P .. 'hooks', next_at, id)
else
  redis.call('ZREM', P .. 'hooks', id)
  if redis.call('HGET', key, 'again') then
    begin_round(key, id)
  end
end
return 1
