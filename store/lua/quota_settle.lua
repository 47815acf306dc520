-- Updates an account from the job records. KEYS[1] as in quota_admit.lua. ARGV: hold_s, number of
-- ended jobs, number of running jobs; then their ids in that order; then the ids of jobs that are
-- queued (again).

local P = KEYS[1]
local hold_ms = math.ceil(tonumber(ARGV[1]) * 1000)
local last_ended = 3 + tonumber(ARGV[2])
local last_running = last_ended + tonumber(ARGV[3])

local function move(id, from, to)
  local admitted_at = redis.call('ZSCORE', P .. from, id)
  if admitted_at then
    redis.call('ZREM', P .. from, id)
    redis.call('ZADD', P .. to, admitted_at, id)
    redis.call('PEXPIRE', P .. to, hold_ms)
  end
end

for i = 4, #ARGV do
  local id = ARGV[i]
  if i <= last_ended then
    redis.call('ZREM', P .. 'queued', id)
    redis.call('ZREM', P .. 'running', id)
  elseif i <= last_running then
    move(id, 'queued', 'running')
  else
    move(id, 'running', 'queued')
  end
end
return 1
