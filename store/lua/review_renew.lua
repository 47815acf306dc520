-- Keeps a review that waits, and what belongs to it, for longer: it is over, but another review of its
-- image is not. ARGV: its member of the lists, for how many seconds from now. Answers whether it waits.

regardless()
local member, keep_ms = ARGV[3], math.ceil(tonumber(ARGV[4]) * 1000)
local key = P .. 'review:' .. member
if redis.call('HGET', key, 'state') ~= 'waiting' then
  return 0
end
redis.call('HSET', key, 'over', 1)
redis.call('HINCRBY', key, 'version', 1)
keep_longer(key, keep_ms)
for _, name in ipairs(redis.call('HKEYS', key)) do
  if string.sub(name, 1, 4) == 'job:' then
    local id = string.sub(name, 5)
    local tenant = field(id, 'tenant')
    for _, kept in ipairs({ job_key(id), P .. 'held:' .. id, tenant and P .. 'tenant:' .. tenant }) do
      keep_longer(kept, keep_ms)
    end
  end
end
keep_longer(P .. 'reviews', keep_ms)
lapse_later(member, redis.call('PTTL', key))
return 1
