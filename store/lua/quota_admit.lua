-- Decides whether a key may submit one more job, and charges it, in one step. KEYS[1] is the prefix of the key's account,
-- `darkroom:{quota:<key id>}:`, one slot of a cluster:
--
--   tat          string  the theoretical arrival time of GCRA: when the bucket will be full again
--   queued       zset    jobs admitted and not known to run or to have ended, by admission time
--   running      zset    the same for jobs known to run
--   images:<day> string  images admitted on that UTC day
--   once:<job>   string  a charged job that may be submitted again
--
-- ARGV: skew_s, job id, images, '1' to charge the rate, '1' if the job will be computed, '1' if it
-- may be submitted again; then the limits, -1 for none: interval_s, burst, concurrent, queued,
-- per_day; then hold_s. Answers {limit that refuses or '', retry_after_s, tat - now, live jobs,
-- queued jobs, images of the day, seconds left of the day}.

local P = KEYS[1]
local TIME = redis.call('TIME')
local NOW = tonumber(TIME[1]) + tonumber(TIME[2]) / 1e6 + tonumber(ARGV[1])
local id, images = ARGV[2], tonumber(ARGV[3])
local charge_rate, computed, once = ARGV[4] == '1', ARGV[5] == '1', ARGV[6] == '1'
local interval, burst = tonumber(ARGV[7]), tonumber(ARGV[8])
local concurrent, queued, per_day = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local hold_s = tonumber(ARGV[12])
local DAY_S = 86400

local tat = math.max(tonumber(redis.call('GET', P .. 'tat') or NOW), NOW)

local function keep(time)
  tat = time
  redis.call('SET', P .. 'tat', string.format('%.6f', tat), 'PX', math.ceil((tat - NOW) * 1000))
end

-- A clock that was ahead may have stored times far in the future. A bucket is never more than full,
-- and no job was admitted later than now.
if interval > 0 and tat > NOW + burst * interval then
  keep(NOW + burst * interval)
end
for _, name in ipairs({ 'queued', 'running' }) do
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', P .. name, '(' .. string.format('%.6f', NOW), '+inf')) do
    redis.call('ZADD', P .. name, string.format('%.6f', NOW), job)
  end
end
local today = P .. 'images:' .. string.format('%d', math.floor(NOW / DAY_S))
local used = tonumber(redis.call('GET', today) or 0)
-- Jobs that a crash left behind go after the longest time that a job can live.
redis.call('ZREMRANGEBYSCORE', P .. 'queued', '-inf', NOW - hold_s)
redis.call('ZREMRANGEBYSCORE', P .. 'running', '-inf', NOW - hold_s)
local waiting = redis.call('ZCARD', P .. 'queued')
local live = waiting + redis.call('ZCARD', P .. 'running')

local function answer(limit, retry_after_s)
  return { limit, tostring(retry_after_s), tostring(tat - NOW), live, waiting, used, tostring(DAY_S - NOW % DAY_S) }
end

if once and redis.call('EXISTS', P .. 'once:' .. id) == 1 then
  return answer('', 0)
end
if interval > 0 and charge_rate then
  -- GCRA: a request conforms while the bucket holds less than `burst` intervals.
  local wait_s = tat + interval - burst * interval - NOW
  if wait_s > 1e-6 then
    return answer('requests_per_minute', wait_s)
  end
  keep(tat + interval)
end
if computed and concurrent >= 0 and live >= concurrent then
  return answer('concurrent_jobs', 1)
end
if computed and queued >= 0 and waiting >= queued then
  return answer('queued_jobs', 1)
end
if per_day >= 0 then
  if used + images > per_day then
    return answer('images_per_day', DAY_S - NOW % DAY_S)
  end
  used = redis.call('INCRBY', today, images)
  redis.call('EXPIRE', today, 2 * DAY_S)
end
if computed and (concurrent >= 0 or queued >= 0) then
  redis.call('ZADD', P .. 'queued', string.format('%.6f', NOW), id)
  redis.call('PEXPIRE', P .. 'queued', math.ceil(hold_s * 1000))
  live, waiting = live + 1, waiting + 1
end
if once then
  redis.call('SET', P .. 'once:' .. id, 1, 'EX', DAY_S)
end
return answer('', 0)
