-- Takes the job of a message for one attempt. ARGV: id, tenant, key, model, request, created_at, deadline, priority,
-- worker, lease_s, max_attempts, failure for when there are no attempts left, '1' to leave a job that waits to `take`,
-- origin, webhook or ''.
-- Answers as `grant` does.

regardless()
local id, model = ARGV[3], ARGV[6]

if redis.call('EXISTS', job_key(id)) == 0 then
  if tonumber(ARGV[9]) + RETENTION <= NOW then
    -- So old that its record would be gone with its making.
    return { 'ended', 'expired', {} }
  end
  -- Lost, or older than the store keeps: the message holds all of it but its place, and it has waited long enough.
  -- Its deadline may be of a clock that was ahead.
  local created, deadline = tonumber(ARGV[8]), tonumber(ARGV[9])
  deadline = math.min(deadline, NOW + deadline - created)
  record(id, ARGV[4], ARGV[5], model, ARGV[7], created, deadline, ARGV[10], '0', ARGV[16])
  hook(id, ARGV[17])
  local leader = redis.call('HGET', P .. 'flight:' .. ARGV[5], 'leader')
  if not (leader and live(leader)) then
    lead(id, 0)
  end
end
-- Here is its message, so the broker has it.
redis.call('ZREM', P .. 'outbox', id)
if ARGV[15] == '1' and left(tonumber(field(id, 'deadline'))) > 0 and redis.call('ZSCORE', P .. 'waiting:' .. model, id) then
  return { 'busy', '1' }
end
return grant(id, ARGV[11], tonumber(ARGV[12]), tonumber(ARGV[13]), ARGV[14])
