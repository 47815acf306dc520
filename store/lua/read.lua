-- The record of a tenant's job. ARGV: id, tenant. Another tenant's is read no further than a job that never was, so that
-- neither the answer nor the time that it takes tells the two apart.

local id, tenant = ARGV[3], ARGV[4]
local found = redis.call('HMGET', job_key(id), 'tenant', 'status')
if found[1] ~= tenant or found[2] == 'withdrawn' then
  return {}
end
return redis.call('HGETALL', job_key(id))
