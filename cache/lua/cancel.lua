-- Ends a job at its owner's wish. ARGV: id, tenant. Answers {applied, promoted, record}; the record is empty where the
-- tenant has no such job.

local id, tenant = ARGV[3], ARGV[4]
if field(id, 'tenant') ~= tenant then
  return { 0, {}, {} }
end
if not live(id) then
  return { 0, {}, redis.call('HGETALL', job_key(id)) }
end
finish(id, 'canceled')
local promoted = parts(hand_over(id))
return { 1, promoted, redis.call('HGETALL', job_key(id)) }
