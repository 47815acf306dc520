-- Gives a claimed job back to the queue. ARGV: id, attempt, '1' if the attempt counts. The attempt number itself never
-- goes back: it is the fence. Answers whether it was applied.

local id, attempt, counted = ARGV[3], ARGV[4], ARGV[5]
if not fenced(id, attempt) then
  return 0
end
if counted ~= '1' then
  redis.call('HINCRBY', job_key(id), 'uncounted', 1)
end
redis.call('ZREM', P .. 'leases', id)
wait_again(id)
return 1
