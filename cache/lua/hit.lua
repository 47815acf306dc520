-- Records jobs that are born succeeded, many at once. ARGV: id, tenant, key, model, request, ttl_s, result, priority, origin,
-- webhook or '' of each.
-- Answers for each {created_at, deadline}, or the record where there is one already.

local answers = {}
for at = 3, #ARGV, 10 do
  local id, result = ARGV[at], ARGV[at + 6]
  if redis.call('EXISTS', job_key(id)) == 1 then
    answers[#answers + 1] = redis.call('HGETALL', job_key(id))
  else
    local deadline = NOW + tonumber(ARGV[at + 5])
    record(id, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], NOW, deadline, ARGV[at + 7], '0', ARGV[at + 8])
    hook(id, ARGV[at + 9])
    redis.call('HSET', job_key(id), 'cache', 'hit', 'result', result, 'started_at', seconds(NOW))
    finish(id, 'succeeded')
    answers[#answers + 1] = { seconds(NOW), seconds(deadline) }
  end
end
return answers
