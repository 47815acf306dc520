-- Takes due webhooks of one shard, the oldest first. Each is due again after the lease. ARGV:
-- limit, lease_s. Answers {{id, attempt}, ...}.

regardless()
local due = redis.call('ZRANGEBYSCORE', P .. 'hooks', '-inf', seconds(NOW), 'LIMIT', 0, tonumber(ARGV[3]))
local calls = {}
for _, id in ipairs(due) do
  local now = redis.call('HMGET', P .. 'hook:' .. id, 'status', 'attempt')
  if now[1] == 'pending' then
    redis.call('ZADD', P .. 'hooks', seconds(NOW + tonumber(ARGV[4])), id)
    calls[#calls + 1] = { id, tonumber(now[2]) + 1 }
  else
    redis.call('ZREM', P .. 'hooks', id) -- settled, or expired
  end
end
return calls
