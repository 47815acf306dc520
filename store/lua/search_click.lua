-- Counts a click on a hit of a search. KEYS[1] is the prefix of the tenant's clicks,
-- `darkroom:{clicks:<tenant>}:`, one slot of a cluster:
--
--   seen:<day>      set   clicks of that UTC day, each a hash of key, query and image
--   queries         zset  queries with clicks, by the time of the last one
--   counts:<query>  hash  the clicks on each image
--
-- ARGV: now in seconds, day, click, query, image, retention_s; then the most clicks of a day, queries,
-- and images of a query. Answers 1 if the click counts.

local P = KEYS[1]
local now, day, click, query, image = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local retention_s = tonumber(ARGV[6])
local most_clicks, most_queries, most_images = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local SEEN_S = 2 * 86400
local seen, queries, counts = P .. 'seen:' .. day, P .. 'queries', P .. 'counts:' .. query

if redis.call('SCARD', seen) >= most_clicks or redis.call('SISMEMBER', seen, click) == 1 then
  return 0
end
if redis.call('HEXISTS', counts, image) == 0 and redis.call('HLEN', counts) >= most_images then
  return 0
end
redis.call('SADD', seen, click)
redis.call('EXPIRE', seen, SEEN_S)
redis.call('HINCRBY', counts, image, 1)
redis.call('PEXPIRE', counts, math.ceil(retention_s * 1000))
redis.call('ZADD', queries, string.format('%.6f', now), query)
redis.call('PEXPIRE', queries, math.ceil(retention_s * 1000))
redis.call('ZREMRANGEBYSCORE', queries, '-inf', string.format('%.6f', now - retention_s))
-- The queries that were clicked on longest ago make room.
for _, old in ipairs(redis.call('ZRANGE', queries, 0, -1 - most_queries)) do
  redis.call('DEL', P .. 'counts:' .. old)
  redis.call('ZREM', queries, old)
end
return 1
