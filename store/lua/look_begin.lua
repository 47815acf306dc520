-- Grants one attempt at a second look. ARGV: member, attempt, lease_s. Answers since when it is owed, or
-- nothing if the attempt was made, is being made, or is no longer needed.

regardless()
local member, attempt, lease_s = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local key = P .. 'review:' .. member
local now = redis.call('HMGET', key, 'look_owed', 'look_attempt', 'look_until')
-- A lease that ends later than any that is granted now was written by a clock that was ahead.
local held = now[3] and tonumber(now[3]) > NOW and tonumber(now[3]) <= NOW + lease_s
if not now[2] or tonumber(now[2]) + 1 ~= attempt or held then
  return ''
end
redis.call('HSET', key, 'look_until', seconds(NOW + lease_s))
redis.call('ZADD', P .. 'unlooked', seconds(NOW + lease_s), member)
return now[1]
