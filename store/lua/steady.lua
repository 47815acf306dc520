-- Records the time of a sweep, and corrects deadlines if the clock was set since the last one.
--
-- ARGV: seconds since the last sweep by a clock that is never set, or '' if the caller did not make
-- that sweep; the mark that it left; lease_s; the time in the answer of a first call that found a
-- step, or ''. Answers {seconds by which the clock was set, '0' for none; the time, which is the
-- mark now}.
--
-- A first call that finds a step changes nothing. A server that was stopped runs the call late, and
-- the caller can tell. The script looks at every live job, once for each step.

regardless()
local STEP_S = 5 -- a smaller step is a late call, and does little harm
local elapsed, lease_s, told = tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
local mark = redis.call('GET', P .. 'mark')
if mark ~= ARGV[4] then
  elapsed = nil -- another process has swept since
end
mark = tonumber(mark or NOW)
local step = NOW - mark - (elapsed or 0)
if not elapsed then
  step = math.min(step, 0) -- an unknown time has passed; only a step back is certain
end
if math.abs(step) < STEP_S then
  redis.call('SET', P .. 'mark', seconds(NOW))
  return { '0', seconds(NOW) }
end
if not told or math.abs(NOW - told) >= STEP_S then
  return { seconds(step), seconds(NOW) }
end
redis.call('SET', P .. 'mark', seconds(NOW))

-- Records written since the clock was set already have the new time.
local since = NOW - (elapsed or 0) - STEP_S
for _, id in ipairs(redis.call('ZRANGE', P .. 'deadlines', 0, -1)) do
  local job = redis.call('HMGET', job_key(id), 'created_at', 'deadline', 'tenant')
  local created = tonumber(job[1] or NOW)
  if created < since or created > NOW then
    local deadline = tonumber(job[2]) + step
    redis.call('HSET', job_key(id), 'deadline', seconds(deadline))
    redis.call('ZADD', P .. 'deadlines', seconds(deadline), id)
    expire_at(job_key(id), deadline + RETENTION)
    keep_list(job[3], deadline)
  end
end
-- A live worker renews its leases. Those of a dead worker end as if it had died now.
for _, id in ipairs(redis.call('ZRANGE', P .. 'leases', 0, -1)) do
  lease(id, lease_s)
end
for _, id in ipairs(redis.call('ZRANGE', P .. 'outbox', 0, -1)) do
  to_outbox(id)
end
-- Webhooks that were not due yet. When the clock is set forward, one due after the step looks like
-- a new one. It comes early, once.
local low, high = '(' .. seconds(mark), '(' .. seconds(since)
if step < 0 then
  low, high = '(' .. seconds(NOW), '+inf'
end
local hooks = redis.call('ZRANGEBYSCORE', P .. 'hooks', low, high, 'WITHSCORES')
for i = 1, #hooks, 2 do
  local due, hook_key = seconds(math.max(NOW, tonumber(hooks[i + 1]) + step)), P .. 'hook:' .. hooks[i]
  redis.call('ZADD', P .. 'hooks', due, hooks[i])
  if redis.call('HEXISTS', hook_key, 'next_at') == 1 then
    redis.call('HSET', hook_key, 'next_at', due)
  end
  if redis.call('HEXISTS', hook_key, 'until') == 1 then
    redis.call('HSET', hook_key, 'until', due)
  end
end
return { seconds(step), seconds(NOW) }
