-- Gives a claimed job back to the queue. ARGV: id, attempt, '1' if the attempt counts. The attempt number itself never
-- goes back: it is the fence. Answers whether it was applied.

local id, attempt, counted = ARGV[3], ARGV[4], ARGV[5]
if not fenced(id, attempt) then
  return 0
end
if counted ~= '1' then
  redis.call('HINCRBY', job_key(id), 'uncounted', 1)
end
redis.call('HSET', job_key(id), 'status', 'queued')
redis.call('HDEL', job_key(id), 'lease_until', 'worker', 'claimed_at', 'step', 'steps')
redis.call('ZREM', P .. 'leases', id)
to_waiting(id)
announce(id, 'queued')
return 1
