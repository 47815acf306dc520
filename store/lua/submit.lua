-- Records jobs, each by itself. A job leads its key, follows the live leader, or succeeds at once
-- from a flight that has just landed.
--
-- ARGV: a JSON list of documents: the job's static parts (`record` in record.lua) and ttl_s; `tag`,
-- its fair tag, or `flow` and `share` (cost over weight) to give it one; `address`, where the
-- result cache on this server may have its result; `most_ahead`, how many jobs may be ahead of a
-- leader (-1: it may not lead). The last two may be absent.
--
-- Answers for each job {'led', created_at, deadline, tag, jobs ahead or -1: not counted},
-- {'joined', created_at, deadline}, {'landed', created_at, deadline, result} or {'known', whether
-- its message is unconfirmed, record}. If nothing was recorded: {'found', result}, {'refused', jobs
-- ahead or -1: not counted} or {'failed', error}.

local function submit(doc)
  local id = doc.id
  if redis.call('EXISTS', job_key(id)) == 1 then
    local unconfirmed = redis.call('ZSCORE', P .. 'outbox', id)
    return { 'known', unconfirmed and 1 or 0, redis.call('HGETALL', job_key(id)) }
  end
  local cached = doc.address and redis.call('GET', ROOT .. 'result:' .. doc.address)
  if cached then
    return { 'found', cached }
  end
  local deadline = NOW + doc.ttl_s
  local flight = redis.call('HMGET', P .. 'flight:' .. doc.key, 'leader', 'result')
  if flight[2] then
    record_succeeded(doc, deadline, flight[2])
    return { 'landed', seconds(NOW), seconds(deadline), flight[2] }
  end
  if flight[1] and live(flight[1]) then
    record_queued(doc, NOW, deadline, '0', 'joined')
    local followers = P .. 'followers:' .. doc.key
    redis.call('RPUSH', followers, id)
    expire_at(followers, deadline + RETENTION)
    return { 'joined', seconds(NOW), seconds(deadline) }
  end
  if doc.most_ahead and doc.most_ahead < 0 then
    return { 'refused', -1 }
  end
  local turn = not doc.tag and next_turn(doc.model, doc.flow)
  local tag = doc.tag or precise(turn.tag)
  local ahead = -1
  if turn and doc.most_ahead then
    ahead = redis.call('ZCOUNT', P .. 'waiting:' .. doc.model, '-inf', tag)
    if ahead > doc.most_ahead then
      return { 'refused', ahead }
    end
  end
  record_queued(doc, NOW, deadline, tag, 'miss')
  if turn then
    take_turn(turn, doc.flow, doc.share)
  end
  lead({ id = id, key = doc.key, model = doc.model, tag = tag, deadline = deadline }, 0)
  to_outbox(id)
  return { 'led', seconds(NOW), seconds(deadline), tag, ahead }
end

local answers = {}
for i, doc in ipairs(cjson.decode(ARGV[3])) do
  -- An error in one job does not affect the others.
  answers[i] = apart(submit, doc)
end
return answers
