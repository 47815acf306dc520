-- Records the progress of a running job and of its first followers. ARGV: id, attempt, step, steps,
-- number of followers to notify. Answers 0 if the lease is void.

regardless()
local id, attempt, step, steps, told = ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])

local job = load(id)
if not fenced(job, attempt) then
  return 0
end
for _, one in ipairs(watched(job, told)) do
  redis.call('HSET', job_key(one.id), 'step', step, 'steps', steps, 'sequence', next_sequence(one))
  tell(one.id, 'progress ' .. step .. ' ' .. steps)
end
return 1
