-- Notes how far a running job is, and its first followers with it. ARGV: id, attempt, step, steps, followers to tell.
-- Answers 0 where the lease is void.

regardless()
local id, attempt, step, steps, told = ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])

if not fenced(id, attempt) then
  return 0
end
for _, one in ipairs(watched(id, told)) do
  redis.call('HSET', job_key(one), 'step', step, 'steps', steps)
  announce(one, 'progress ' .. step .. ' ' .. steps)
end
return 1
