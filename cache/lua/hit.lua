-- Records jobs that are born succeeded, many at once. ARGV: how many kinds there are, then tenant, key, model, request, ttl_s,
-- result, priority, webhook or '' of each, then id, number of its kind (from 0) and origin of each job.
-- Answers for each job {created_at, deadline}, or the record where there is one already.

local FIELDS = 8
local answers = {}
for at = 4 + FIELDS * tonumber(ARGV[3]), #ARGV, 3 do
  local id, kind = ARGV[at], 4 + FIELDS * tonumber(ARGV[at + 1])
  if redis.call('EXISTS', job_key(id)) == 1 then
    answers[#answers + 1] = redis.call('HGETALL', job_key(id))
  else
    local deadline = NOW + tonumber(ARGV[kind + 4])
    record(id, ARGV[kind], ARGV[kind + 1], ARGV[kind + 2], ARGV[kind + 3], NOW, deadline, ARGV[kind + 6], '0', ARGV[at + 2])
    hook(id, ARGV[kind + 7])
    redis.call('HSET', job_key(id), 'cache', 'hit', 'result', ARGV[kind + 5], 'started_at', seconds(NOW))
    finish(id, 'succeeded')
    answers[#answers + 1] = { seconds(NOW), seconds(deadline) }
  end
end
return answers
