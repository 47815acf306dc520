-- The record of a tenant's job. ARGV: id, tenant. For another tenant's job, the script reads no
-- more than for a job that never existed. Neither the answer nor its time tells the two apart.

local id, tenant = ARGV[3], ARGV[4]
local found = redis.call('HMGET', job_key(id), 'tenant', 'status')
if found[1] ~= tenant or found[2] == 'withdrawn' then
  return {}
end
return redis.call('HGETALL', job_key(id))
