-- Takes due entries of a set of duties of the search index, the oldest first. Each is due again
-- after the lease. ARGV: `unindexed` or `unwanted`, limit, lease_s. Answers the entries.

regardless()
local name, limit, lease_s = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local set, taken = P .. name, {}
local function due(from, to)
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', set, from, to, 'LIMIT', 0, limit - #taken)) do
    if name == 'unindexed' and redis.call('EXISTS', P .. 'picture:' .. entry) == 0 then
      redis.call('ZREM', set, entry) -- its records have expired
    else
      redis.call('ZADD', set, seconds(NOW + lease_s), entry)
      taken[#taken + 1] = entry
    end
  end
end
due('-inf', seconds(NOW))
if #taken < limit then
  -- Leased by a clock that was ahead and has been set back.
  due('(' .. seconds(NOW + lease_s), '+inf')
end
return taken
