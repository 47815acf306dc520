-- Housekeeping of one shard, at most `limit` jobs of each kind. ARGV: limit, stale_s, lease_s. Answers {stale, promoted}.

local limit, stale_s, lease_s = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local promoted = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'deadlines', '-inf', seconds(NOW), 'LIMIT', 0, limit)) do
  if live(id) then
    finish(id, 'expired')
    for _, other in ipairs(hand_over(id)) do
      promoted[#promoted + 1] = other
    end
  else
    redis.call('ZREM', P .. 'deadlines', id)
  end
end

local stale = {}
local tried = seconds(NOW - stale_s)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'outbox', '-inf', tried, 'LIMIT', 0, limit)) do
  -- One that is taken already needs its message too, in case its worker dies.
  if live(id) then
    to_outbox(id) -- so that another sweep, now, does not answer it as well
    stale[#stale + 1] = id
  else
    redis.call('ZREM', P .. 'outbox', id)
  end
end

-- A job that is still running a whole lease after its own has lapsed: had its message been with the broker, another worker
-- would have it by now. A new message brings it to one.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', seconds(NOW - lease_s), 'LIMIT', 0, limit)) do
  if field(id, 'status') == 'running' then
    redis.call('ZADD', P .. 'leases', seconds(NOW), id) -- looked at again in a lease's time
    if not redis.call('ZSCORE', P .. 'outbox', id) then
      to_outbox(id)
      stale[#stale + 1] = id
    end
  else
    redis.call('ZREM', P .. 'leases', id)
  end
end
return { parts(stale), parts(promoted) }
