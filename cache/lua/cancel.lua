-- Ends a job at its owner's wish, and tells the worker that has it in hand. ARGV: id, tenant. Answers {applied, promoted, record}; the record is empty where the
-- tenant has no such job.

regardless()
local id, tenant = ARGV[3], ARGV[4]
if field(id, 'tenant') ~= tenant then
  return { 0, {}, {} }
end
if not live(id) then
  return { 0, {}, redis.call('HGETALL', job_key(id)) }
end
local now = redis.call('HMGET', job_key(id), 'status', 'worker')
if now[1] == 'running' and now[2] then
  -- One channel for all shards: a worker listens to its own alone.
  redis.call('PUBLISH', string.match(P, '^[^{]*') .. 'canceled:' .. now[2], id)
end
finish(id, 'canceled')
local promoted = parts(hand_over(id))
return { 1, promoted, redis.call('HGETALL', job_key(id)) }
