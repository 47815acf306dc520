-- Records jobs that are born succeeded, many at once. ARGV: a JSON list of kinds, {what jobs have in common (`record` in record.lua),
-- ttl_s, result}; a JSON list of jobs, {id, number of its kind (from 0), origin}. Answers for each job {created_at, deadline}, or the
-- record where there is one already.

local kinds, answers = cjson.decode(ARGV[3]), {}
for i, job in ipairs(cjson.decode(ARGV[4])) do
  local id, doc = job[1], kinds[job[2] + 1]
  if redis.call('EXISTS', job_key(id)) == 1 then
    answers[i] = redis.call('HGETALL', job_key(id))
  else
    doc.id, doc.origin = id, job[3]
    local deadline = NOW + doc.ttl_s
    record_succeeded(doc, deadline, doc.result)
    answers[i] = { seconds(NOW), seconds(deadline) }
  end
end
return answers
