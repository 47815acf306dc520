-- Sweeps one shard, at most `limit` jobs of each kind. ARGV: limit, stale_s, lease_s. Answers
-- {stale, promoted}.

regardless()
local limit, stale_s, lease_s = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local promoted = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'deadlines', '-inf', seconds(NOW), 'LIMIT', 0, limit)) do
  local job = load(id)
  if not is_live(job) then
    redis.call('ZREM', P .. 'deadlines', id)
  elseif left(tonumber(job.deadline)) > 0 then
    break -- the clock was set a moment ago; the next sweep corrects that
  else
    finish(job, 'expired')
    for _, other in ipairs(hand_over(job)) do
      promoted[#promoted + 1] = other
    end
  end
end

local stale = {}
local tried = seconds(NOW - stale_s)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'outbox', '-inf', tried, 'LIMIT', 0, limit)) do
  -- A job that is taken needs its message too, in case its worker dies.
  if live(id) then
    to_outbox(id) -- so a sweep at the same time does not answer it as well
    stale[#stale + 1] = id
  else
    redis.call('ZREM', P .. 'outbox', id)
  end
end

-- A whole lease has passed since the lease of this job lapsed, and no worker has taken it. If the
-- broker had its message, a worker would have received it. So it needs a new message.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', seconds(NOW - lease_s), 'LIMIT', 0, limit)) do
  local job = load(id)
  if job and job.status == 'running' then
    wait_again(job)
  end
  redis.call('ZREM', P .. 'leases', id)
  if is_live(job) and not redis.call('ZSCORE', P .. 'outbox', id) then
    to_outbox(id)
    stale[#stale + 1] = id
  end
end

-- A job whose lease has lapsed waits again at its old place in the order. Its message may be far
-- back in the broker's queue.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', seconds(NOW), 'LIMIT', 0, limit)) do
  local job = load(id)
  if job and job.status == 'running' then
    wait_again(job)
  elseif not is_live(job) then
    redis.call('ZREM', P .. 'leases', id)
  end
end
return { records(stale), records(promoted) }
