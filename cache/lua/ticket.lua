-- A start tag for the next job of a flow (`scheduler/fairness.py` says how). KEYS[1] is the prefix of a
-- model's fair clock, `darkroom:{fair:<model>}:`; below it `clock` holds the virtual time, and `finish` the finish tag of
-- each flow that is ahead of it. ARGV: flow, cost over weight. Answers the tag.

local flow, share = ARGV[3], tonumber(ARGV[4])
redis.call('ZADD', P .. 'clock', 'NX', 0, 'now')
local now = tonumber(redis.call('ZSCORE', P .. 'clock', 'now'))
redis.call('ZREMRANGEBYSCORE', P .. 'finish', '-inf', now)
local tag = math.max(now, tonumber(redis.call('ZSCORE', P .. 'finish', flow) or 0))
redis.call('ZADD', P .. 'finish', string.format('%.17g', tag + share), flow)
for _, name in ipairs({ 'clock', 'finish' }) do
  redis.call('PEXPIRE', P .. name, math.ceil(RETENTION * 1000))
end
return string.format('%.17g', tag)
