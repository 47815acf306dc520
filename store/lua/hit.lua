-- Records many jobs that succeed at once, each by itself. ARGV: a JSON list of kinds, {parts that
-- jobs have in common (`record` in record.lua), ttl_s, result}; a JSON list of jobs, {id, index of
-- its kind (from 0), origin}. Answers for each job {created_at, deadline}, or the record if it
-- exists already, or {'failed', error}.

local kinds, answers = cjson.decode(ARGV[3]), {}

local function hit(id, doc, origin)
  if redis.call('EXISTS', job_key(id)) == 1 then
    return redis.call('HGETALL', job_key(id))
  end
  doc.id, doc.origin = id, origin
  local deadline = NOW + doc.ttl_s
  record_succeeded(doc, deadline, doc.result)
  return { seconds(NOW), seconds(deadline) }
end

for i, job in ipairs(cjson.decode(ARGV[4])) do
  answers[i] = apart(hit, job[1], kinds[job[2] + 1], job[3])
end
return answers
