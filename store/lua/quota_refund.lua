-- Takes back the charge of a job that was not recorded. Its rate stays charged, because it was a
-- request. KEYS[1] as in quota_admit.lua. ARGV: skew_s, job id, images, '1' if the images were
-- charged.

local P = KEYS[1]
local NOW = tonumber(redis.call('TIME')[1]) + tonumber(ARGV[1])
redis.call('ZREM', P .. 'queued', ARGV[2])
redis.call('ZREM', P .. 'running', ARGV[2])
redis.call('DEL', P .. 'once:' .. ARGV[2])
local today = P .. 'images:' .. string.format('%d', math.floor(NOW / 86400))
if ARGV[4] == '1' and redis.call('EXISTS', today) == 1 then
  redis.call('DECRBY', today, ARGV[3])
end
return 1
