-- Erases an ended job and all its data. ARGV: id, tenant. Answers {erased, webhooks}: {-1, 0} if
-- the job is live, {0, 0} if the tenant has no such job.
--
-- The broker may still have a message of the job: the job was canceled, or its worker died before
-- the ack. Without a record, `claim` would make a record from the message, and run the job. So a
-- mark without any data of its owner stays for as long as `claim` would accept the message.

regardless()
local id, tenant = ARGV[3], ARGV[4]
local job = load(id)
if not job or job.tenant ~= tenant then
  return { 0, 0 }
end
if is_live(job) then
  return { -1, 0 }
end
local deadline = tonumber(job.deadline)
unlist(job)
redis.call('ZREM', P .. 'waiting:' .. job.model, id)
redis.call('LREM', P .. 'followers:' .. job.key, 0, id)
if leads(job) then
  redis.call('DEL', P .. 'flight:' .. job.key)
end
local webhooks = redis.call('DEL', P .. 'hook:' .. id)
redis.call('DEL', P .. 'hooklog:' .. id)
redis.call('ZREM', P .. 'hooks', id)
redis.call('ZREM', P .. 'tenant:' .. tenant, id)
redis.call('DEL', job_key(id))
if deadline + RETENTION > NOW then
  redis.call('HSET', job_key(id), 'id', id, 'status', 'withdrawn', 'deadline', seconds(deadline))
  expire_at(job_key(id), deadline + RETENTION)
end
return { 1, webhooks }
