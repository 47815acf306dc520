-- Takes the job of a message for one attempt. ARGV: a JSON document of the worker (`grant` in
-- moves.lua), with `leave_waiting` to leave a waiting job to `take`; and a JSON document of the
-- job, with created_at and deadline (`record` in record.lua). Answers as `grant` does.

local by, doc = cjson.decode(ARGV[3]), cjson.decode(ARGV[4])
local id = doc.id
-- The message was delivered, so the broker has it.
redis.call('ZREM', P .. 'outbox', id)
local job = load(id)
if not job then
  if doc.deadline + RETENTION <= NOW then
    -- The record would be past its retention as soon as it was written.
    return { 'ended', 'expired', {} }
  end
  -- The record is lost, or past the store's retention. The message holds all of it except its place
  -- in the order, and the job has waited long enough. Its deadline may come from a clock that was
  -- ahead.
  local deadline = math.min(doc.deadline, NOW + doc.deadline - doc.created_at)
  record_queued(doc, doc.created_at, deadline, '0', 'miss')
  job = load(id)
  local leader = redis.call('HGET', P .. 'flight:' .. doc.key, 'leader')
  if not (leader and live(leader)) then
    redis.call('HDEL', P .. 'flight:' .. doc.key, 'result') -- of an earlier leader that has ended
    lead(job, 0)
  end
end
if by.leave_waiting and job.status == 'queued' and left(tonumber(job.deadline)) > 0
  and redis.call('ZSCORE', P .. 'waiting:' .. job.model, id) then
  return { 'busy', '1' }
end
return grant(job, by)
