-- Cancels a job for its tenant, and notifies the worker that runs it. ARGV: id, tenant. Answers
-- {applied, promoted, record}. The record is empty where the tenant has no such job.

regardless()
local id, tenant = ARGV[3], ARGV[4]
local job = load(id)
if not job or job.tenant ~= tenant then
  return { 0, {}, {} }
end
if not is_live(job) then
  return { 0, {}, redis.call('HGETALL', job_key(id)) }
end
if job.status == 'running' and job.worker then
  -- One channel for all shards. A worker listens to its own channel only.
  redis.call('PUBLISH', ROOT .. 'canceled:' .. job.worker, id)
end
finish(job, 'canceled')
local promoted = records(hand_over(job))
return { 1, promoted, redis.call('HGETALL', job_key(id)) }
