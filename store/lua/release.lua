-- Gives a running job back to the queue. ARGV: id, attempt, the failure that ended the attempt or
-- ''. Without a failure the attempt does not count. The attempt number never goes back, because it
-- is the fence. Answers whether it was applied.

regardless()
local id, attempt, fault = ARGV[3], ARGV[4], ARGV[5]
local job = load(id)
if not fenced(job, attempt) then
  return 0
end
if fault == '' then
  redis.call('HINCRBY', job_key(id), 'uncounted', 1)
else
  redis.call('HSET', job_key(id), 'fault', fault)
end
redis.call('ZREM', P .. 'leases', id)
wait_again(job)
return 1
