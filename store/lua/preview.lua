-- Publishes a preview. It does not change the job, so the sequence stays, and a missed preview is
-- not sent again. The record keeps only its name, so that the image can be erased with its tenant.
-- ARGV: id, attempt, index, name, number of followers to notify. Answers 0 if the lease is void.

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
