-- Tells of a picture in the making. It is no change of the job: nothing is counted, nothing told again. The record keeps its name
-- alone, so that the picture can be erased with its tenant.
-- ARGV: id, attempt, index, name, followers to tell. Answers 0 where the lease is void.

regardless()
local id, attempt, index, name, told = ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])

local job = load(id)
if not fenced(job, attempt) then
  return 0
end
redis.call('HSET', job_key(id), 'preview:' .. index, name)
for _, one in ipairs(watched(job, told)) do
  tell(one.id, 'preview ' .. index .. ' ' .. name)
end
return 1
