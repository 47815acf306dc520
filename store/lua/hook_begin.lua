-- Grants one attempt at a webhook. ARGV: id, attempt, lease_s. Answers {owed_at, record, event, round,
-- attempts made for earlier events}, or {} if
-- the attempt was made, is being made, or is no longer needed.

regardless()
local id, attempt, lease_s = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local key = P .. 'hook:' .. id
local now = redis.call('HMGET', key, 'status', 'attempt', 'until', 'owed_at', 'event', 'round', 'base')
if now[1] ~= 'pending' or tonumber(now[2]) + 1 ~= attempt or (now[3] and tonumber(now[3]) > NOW) then
  return {}
end
redis.call('HSET', key, 'until', seconds(NOW + lease_s))
redis.call('ZADD', P .. 'hooks', seconds(NOW + lease_s), id)
return { now[4], redis.call('HGETALL', job_key(id)), now[5], tonumber(now[6] or 0), tonumber(now[7] or 0) }
