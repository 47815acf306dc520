-- Undoes the submit of a leader that no worker has claimed. A mark is left, which stops its message
-- if the broker has it after all. ARGV: id. Answers {applied, promoted}.

regardless()
local id = ARGV[3]
local job = load(id)
if not job or job.status ~= 'queued' then
  return { 0, {} }
end
unlist(job)
redis.call('HSET', job_key(id), 'status', 'withdrawn')
count('withdrawn')
local promoted = records(hand_over(job))
redis.call('ZREM', P .. 'tenant:' .. job.tenant, id)
expire_at(job_key(id), tonumber(job.deadline))
return { 1, promoted }
