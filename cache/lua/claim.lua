-- Takes a job for one attempt. ARGV: id, tenant, key, model, request, created_at, deadline, worker, lease_s,
-- max_attempts, failure for when there are no attempts left.
-- Answers {'granted', attempt, started_at, claimed_at}, {'busy', seconds}, or {'ended', status, promoted}.

local id, worker, lease_s = ARGV[3], ARGV[10], tonumber(ARGV[11])

if redis.call('EXISTS', job_key(id)) == 0 then
  -- Lost, or older than the store keeps: the message holds all of it.
  record(id, ARGV[4], ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9]))
  local leader = redis.call('HGET', P .. 'flight:' .. ARGV[5], 'leader')
  if not (leader and live(leader)) then
    lead(id, 0)
  end
end

local now = redis.call('HMGET', job_key(id), 'status', 'attempt', 'uncounted', 'deadline', 'lease_until')
local status, attempt = now[1], tonumber(now[2])
if TERMINAL[status] then
  return { 'ended', status == 'withdrawn' and 'canceled' or status, {} }
end
if tonumber(now[4]) <= NOW then
  finish(id, 'expired')
  return { 'ended', 'expired', parts(hand_over(id)) }
end
if status == 'running' and tonumber(now[5]) > NOW then
  return { 'busy', seconds(tonumber(now[5]) - NOW) }
end
if attempt - tonumber(now[3] or 0) >= tonumber(ARGV[12]) then
  finish(id, 'failed', 'failure', ARGV[13])
  return { 'ended', 'failed', parts(hand_over(id, ARGV[13])) }
end

redis.call('ZREM', P .. 'outbox', id)
redis.call('ZREM', P .. 'waiting:' .. field(id, 'model'), id)
redis.call('HSETNX', job_key(id), 'started_at', seconds(NOW))
redis.call('HSET', job_key(id), 'status', 'running', 'attempt', attempt + 1, 'claimed_at', seconds(NOW),
  'worker', worker, 'lease_until', seconds(NOW + lease_s))
announce(id, 'running')
return { 'granted', attempt + 1, field(id, 'started_at'), seconds(NOW) }
