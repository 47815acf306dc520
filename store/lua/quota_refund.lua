-- Takes back the charge of a job that was not recorded, or that moderation has blocked. Its rate stays
-- charged, because it was a request. KEYS[1] as in quota_admit.lua. ARGV: skew_s, job id, images, '1' if
-- the images were charged; when they were, if the job was recorded, else ''. A recorded job is refunded
-- once: `refunded:<job>` notes it for as long as images of a day are counted.

local P = KEYS[1]
local NOW = tonumber(redis.call('TIME')[1]) + tonumber(ARGV[1])
local KEEP_S = 2 * 86400
redis.call('ZREM', P .. 'queued', ARGV[2])
redis.call('ZREM', P .. 'running', ARGV[2])
redis.call('DEL', P .. 'once:' .. ARGV[2])
if ARGV[5] ~= '' and not redis.call('SET', P .. 'refunded:' .. ARGV[2], 1, 'NX', 'EX', KEEP_S) then
  return 0
end
local day = P .. 'images:' .. string.format('%d', math.floor((tonumber(ARGV[5]) or NOW) / 86400))
if ARGV[4] == '1' and redis.call('EXISTS', day) == 1 then
  redis.call('DECRBY', day, ARGV[3])
end
return 1
