-- A start tag for the next job of a flow (`scheduler/fairness.py`). KEYS[1] is the prefix of a model's fair clock,
-- `darkroom:{fair:<model>}:`; below it `clock` holds the virtual time and `finish` the finish tag of each flow ahead of
-- it. ARGV: flow, cost over weight. Answers the tag.

local flow, share = ARGV[3], tonumber(ARGV[4])
local now = tonumber(redis.call('ZSCORE', P .. 'clock', 'now') or 0)
redis.call('ZREMRANGEBYSCORE', P .. 'finish', '-inf', now)
local tag = math.max(now, tonumber(redis.call('ZSCORE', P .. 'finish', flow) or 0))
redis.call('ZADD', P .. 'finish', tag + share, flow)
redis.call('PEXPIRE', P .. 'finish', math.ceil(RETENTION * 1000))
return string.format('%.17g', tag)
