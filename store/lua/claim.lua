-- Takes the job of a message for one attempt. ARGV: a JSON document of who takes it (`grant` in moves.lua) with `leave_waiting`, to
-- leave a job that waits to `take`; the job's, with created_at and deadline (`record` in record.lua). Answers as `grant` does.

local by, doc = cjson.decode(ARGV[3]), cjson.decode(ARGV[4])
local id = doc.id
-- Here is its message, so the broker has it.
redis.call('ZREM', P .. 'outbox', id)
local job = load(id)
if not job then
  if doc.deadline + RETENTION <= NOW then
    -- So old that its record would be gone with its making.
    return { 'ended', 'expired', {} }
  end
  -- Lost, or older than the store keeps: the message holds all of it but its place, and it has waited long enough.
  -- Its deadline may be of a clock that was ahead.
  local deadline = math.min(doc.deadline, NOW + doc.deadline - doc.created_at)
  record_queued(doc, doc.created_at, deadline, '0', 'miss')
  job = load(id)
  local leader = redis.call('HGET', P .. 'flight:' .. doc.key, 'leader')
  if not (leader and live(leader)) then
    redis.call('HDEL', P .. 'flight:' .. doc.key, 'result') -- of one that ended before
    lead(job, 0)
  end
end
if by.leave_waiting and job.status == 'queued' and left(tonumber(job.deadline)) > 0
  and redis.call('ZSCORE', P .. 'waiting:' .. job.model, id) then
  return { 'busy', '1' }
end
return grant(job, by)
