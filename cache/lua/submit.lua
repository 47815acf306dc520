-- Records a job: born succeeded from a just landed result, following a live leader, or leading its key.
-- ARGV: id, tenant, key, model, request, ttl_s, result or '', '0' if it may not lead, priority, fair tag, origin,
-- webhook or ''.
-- Answers {lead, record}, or {-1, {}} and records nothing if it would have to lead and may not.

local id, tenant, key, model, request = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local ttl_s, result = tonumber(ARGV[8]), ARGV[9]

if redis.call('EXISTS', job_key(id)) == 1 then
  local unconfirmed = redis.call('ZSCORE', P .. 'outbox', id)
  return { unconfirmed and 1 or 0, redis.call('HGETALL', job_key(id)) }
end

local flight = redis.call('HMGET', P .. 'flight:' .. key, 'leader', 'result')
local leader, landed = flight[1], flight[2]
if result == '' and landed then
  result = landed
end
local following = leader and live(leader)
if result == '' and not following and ARGV[10] == '0' then
  return { -1, {} }
end
record(id, tenant, key, model, request, NOW, NOW + ttl_s, ARGV[11], ARGV[12], ARGV[13])
hook(id, ARGV[14])

local leading = 0
if result ~= '' then
  redis.call('HSET', job_key(id), 'cache', 'hit', 'result', result, 'started_at', seconds(NOW))
  finish(id, 'succeeded')
elseif following then
  redis.call('HSET', job_key(id), 'cache', 'joined')
  local followers = P .. 'followers:' .. key
  redis.call('RPUSH', followers, id)
  expire_at(followers, NOW + ttl_s + RETENTION)
else
  lead(id, 0)
  to_outbox(id)
  leading = 1
end
return { leading, redis.call('HGETALL', job_key(id)) }
