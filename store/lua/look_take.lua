-- Takes due second looks of one shard, the oldest first. Each is due again after the lease. ARGV: limit,
-- lease_s. Answers {{member, attempt}, ...}.

regardless()
local AHEAD_S = 2 * 86400 -- longer than any deadline: the clock that wrote it was ahead and has been set back
local limit, lease_s = tonumber(ARGV[3]), tonumber(ARGV[4])
local calls = {}
local function take(from, to)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', P .. 'unlooked', from, to, 'LIMIT', 0, limit - #calls)) do
    local made = redis.call('HGET', P .. 'review:' .. member, 'look_attempt')
    if made then
      redis.call('ZADD', P .. 'unlooked', seconds(NOW + lease_s), member)
      calls[#calls + 1] = { member, tonumber(made) + 1 }
    else
      redis.call('ZREM', P .. 'unlooked', member) -- settled, or expired
    end
  end
end
take('-inf', seconds(NOW))
if #calls < limit then
  take('(' .. seconds(NOW + AHEAD_S), '+inf')
end
return calls
