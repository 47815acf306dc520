-- What every transition shares; put before each script of this folder.
--
-- KEYS[1] is the prefix of a shard, `darkroom:{s0}:`; a store that is no cluster has only this one. All keys below begin with it, so that
-- in a cluster they live together and one script may touch them all. ARGV[1] shifts the clock (seconds, 0 outside of tests), ARGV[2] is the
-- retention of ended jobs (seconds). The arguments of a script itself begin at ARGV[3].
--
--   job:<id>         hash   the record: static parts, status, stamps, attempt, lease, result or failure
--   flight:<key>     hash   the computation of a key: leader, promotions, result once it has landed
--   followers:<key>  list   jobs that wait for the flight, oldest first
--   outbox           zset   live leaders whose message is not known to be with the broker, by the time it was last tried
--   leases           zset   running jobs by the end of their lease
--   deadlines        zset   live jobs by deadline
--   waiting:<model>  zset   queued leaders by fair tag
--   tenant:<tenant>  zset   all jobs of a tenant by creation
--   counts           hash   how many jobs were ever recorded, and how many ended in each state: exact, for audits
--   mark             string the time of the last sweep, by which a clock that was set is told from time that has passed
--   hook:<id>        hash   the webhook that an ended job owes: event, status, attempt (made), owed_at, next_at, until
--   hooklog:<id>     list   its attempts, oldest first
--   hooks            zset   owed webhooks by the time at which they are due
--   hooks            channel `<id>`, when one has become due
--   (none) canceled:<worker>  channel `<id>`, without the shard in its name: when a job was canceled in the worker's hands
--   events           channel `<id> <status>` or `<id> progress <step> <steps>`, one message per change; and
--                            `<id> preview <index> <name>`, which changes nothing

local P = KEYS[1]
local TIME = redis.call('TIME')
local NOW = tonumber(TIME[1]) + tonumber(TIME[2]) / 1e6 + tonumber(ARGV[1])
local RETENTION = tonumber(ARGV[2])
local MAX_PROMOTIONS = 2
local LANDED_GRACE_S = 10
local HOOK_KEEP_S = 4 * 86400 -- longer than the three days of attempts
local DOUBT_S = 10 -- a clock that is this far ahead of the last sweep may have been set
local TRIM = 4 -- places that a new job looks at in its tenant's list
local TERMINAL = { succeeded = true, failed = true, canceled = true, expired = true, withdrawn = true }

-- Lets the script go on where the server is at its `maxmemory`. There a script is refused at its first write, unless that one can
-- only free memory (Redis' script.c, `scriptVerifyOOM`; the same from 6.2 on). What is accepted must end, and takes little room.
-- Scripts that record something new leave this out, and are refused.
local function regardless()
  redis.call('DEL', P .. 'nothing')
end

local function seconds(time)
  return string.format('%.6f', time)
end

local function job_key(id)
  return P .. 'job:' .. id
end

local function field(id, name)
  return redis.call('HGET', job_key(id), name)
end

local function live(id)
  local status = field(id, 'status')
  return status and not TERMINAL[status]
end

local function expire_at(key, time)
  redis.call('PEXPIREAT', key, math.ceil(time * 1000))
end

-- What is left of a deadline, in seconds. The sweep looks at the clock every second. Where it has not looked for long, the clock
-- may have been set forward: then what was left at the last sweep still is, and no job ends early.
local function left(deadline)
  local left_s = deadline - NOW
  local mark = left_s <= 0 and redis.call('GET', P .. 'mark')
  if mark and NOW - tonumber(mark) > DOUBT_S then
    return deadline - tonumber(mark)
  end
  return left_s
end

-- Counts a change of the record and tells it to those who watch.
local function announce(id, change)
  redis.call('HINCRBY', job_key(id), 'sequence', 1)
  redis.call('PUBLISH', P .. 'events', id .. ' ' .. change)
end

local function count(what)
  redis.call('HINCRBY', P .. 'counts', what, 1)
end

-- A tenant's list stays as long as the record of any job in it that must end by `deadline`.
local function keep_list(tenant, deadline)
  local key = P .. 'tenant:' .. tenant
  if redis.call('PTTL', key) < (deadline + RETENTION - NOW) * 1000 then
    expire_at(key, deadline + RETENTION)
  end
end

-- Writes the static part of a record that was created at `created` and must end by `deadline`.
local function record(id, tenant, key, model, request, created, deadline, priority, tag, origin)
  redis.call('HSET', job_key(id), 'id', id, 'tenant', tenant, 'key', key, 'model', model, 'request', request,
    'created_at', seconds(created), 'deadline', seconds(deadline), 'status', 'queued', 'cache', 'miss', 'attempt', 0,
    'priority', priority, 'tag', tag, 'origin', origin)
  expire_at(job_key(id), deadline + RETENTION)
  local mine = P .. 'tenant:' .. tenant
  -- The oldest places of what is no longer kept. A live job is kept however old it is, and a job that owes a webhook for days.
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', mine, '-inf', seconds(NOW - RETENTION), 'LIMIT', 0, TRIM)) do
    if redis.call('EXISTS', job_key(old)) == 0 then
      redis.call('ZREM', mine, old)
    end
  end
  redis.call('ZADD', mine, seconds(created), id)
  keep_list(tenant, deadline)
  redis.call('ZADD', P .. 'deadlines', seconds(deadline), id)
  count('recorded')
end

local function to_waiting(id)
  local job = redis.call('HMGET', job_key(id), 'model', 'tag')
  redis.call('ZADD', P .. 'waiting:' .. job[1], job[2], id)
end

-- The running job `id` is nobody's any more, and waits again.
local function wait_again(id)
  redis.call('HSET', job_key(id), 'status', 'queued')
  redis.call('HDEL', job_key(id), 'lease_until', 'worker', 'claimed_at', 'step', 'steps')
  to_waiting(id)
  announce(id, 'queued')
end

-- Makes the job the leader of its key, `promotions` failures after the first one.
local function lead(id, promotions)
  local flight = P .. 'flight:' .. field(id, 'key')
  redis.call('HSET', flight, 'leader', id, 'promotions', promotions)
  redis.call('HDEL', flight, 'result')
  redis.call('HDEL', job_key(id), 'step', 'steps')
  expire_at(flight, tonumber(field(id, 'deadline')) + RETENTION)
  to_waiting(id)
end

local function to_outbox(id)
  redis.call('ZADD', P .. 'outbox', seconds(NOW), id)
end

-- Takes the job out of every list of live jobs.
local function unlist(id)
  redis.call('ZREM', P .. 'outbox', id)
  redis.call('ZREM', P .. 'leases', id)
  redis.call('ZREM', P .. 'deadlines', id)
  redis.call('ZREM', P .. 'waiting:' .. field(id, 'model'), id)
end

-- Notes where the end of a job is to be told: `webhook` is JSON, or '' for nowhere.
local function hook(id, webhook)
  if webhook ~= '' then
    redis.call('HSET', job_key(id), 'webhook', webhook)
  end
end

-- The duty to tell of a job's end is born with it. Its record stays as long as the duty may.
local function owe(id, status)
  local webhook = field(id, 'webhook')
  if not webhook then
    return
  end
  local event = 'job.' .. status
  for _, wanted in ipairs(cjson.decode(webhook).events) do
    if wanted == event then
      local hook_key = P .. 'hook:' .. id
      redis.call('HSET', hook_key, 'event', event, 'status', 'pending', 'attempt', 0, 'owed_at', seconds(NOW),
        'next_at', seconds(NOW))
      local keep_s = math.max(RETENTION, HOOK_KEEP_S)
      expire_at(hook_key, NOW + keep_s)
      expire_at(job_key(id), NOW + keep_s)
      redis.call('ZADD', P .. 'hooks', seconds(NOW), id)
      redis.call('PUBLISH', P .. 'hooks', id)
    end
  end
end

-- Ends a live job, with more fields of its record in `...`.
local function finish(id, status, ...)
  unlist(id)
  redis.call('HSET', job_key(id), 'status', status, 'finished_at', seconds(NOW), ...)
  redis.call('PEXPIRE', job_key(id), math.ceil(RETENTION * 1000))
  count(status)
  owe(id, status)
  announce(id, status)
end

local function leads(id)
  return redis.call('HGET', P .. 'flight:' .. field(id, 'key'), 'leader') == id
end

-- Who is told how the running job `id` gets on: itself and, where it leads, the live ones among its first `most` followers.
local function watched(id, most)
  local jobs = { id }
  if leads(id) then
    for _, other in ipairs(redis.call('LRANGE', P .. 'followers:' .. field(id, 'key'), 0, most - 1)) do
      if live(other) then
        jobs[#jobs + 1] = other
      end
    end
  end
  return jobs
end

-- The leader `id` has ended without a picture: its key goes to the oldest live follower. With `failure` that counts
-- against the flight, and once too often the rest fail alike. Answers the ids of those who lead now.
local function hand_over(id, failure)
  local key = field(id, 'key')
  if not leads(id) then
    redis.call('LREM', P .. 'followers:' .. key, 0, id)
    return {}
  end
  local flight, followers = P .. 'flight:' .. key, P .. 'followers:' .. key
  local promotions = tonumber(redis.call('HGET', flight, 'promotions'))
  local next_one = redis.call('LPOP', followers)
  while next_one and (promotions >= MAX_PROMOTIONS and failure or not live(next_one)) do
    if live(next_one) then
      finish(next_one, 'failed', 'failure', failure)
    end
    next_one = redis.call('LPOP', followers)
  end
  if not next_one then
    redis.call('DEL', flight)
    return {}
  end
  -- With the turn of the one before.
  redis.call('HSET', job_key(next_one), 'tag', field(id, 'tag'))
  lead(next_one, failure and promotions + 1 or promotions)
  to_outbox(next_one)
  return { next_one }
end

-- Lets the running job be its worker's for `lease_s` from now.
local function lease(id, lease_s)
  local lapse = seconds(NOW + lease_s)
  redis.call('HSET', job_key(id), 'lease_until', lapse)
  redis.call('ZADD', P .. 'leases', lapse, id)
end

-- Whether the lease of attempt `attempt` still holds the job.
local function fenced(id, attempt)
  local now = redis.call('HMGET', job_key(id), 'status', 'attempt')
  return now[1] == 'running' and now[2] == attempt
end

-- What a message of each job is made of.
local function parts(ids)
  local all = {}
  for i, id in ipairs(ids) do
    all[i] = redis.call('HMGET', job_key(id), 'id', 'tenant', 'key', 'request', 'created_at', 'deadline', 'priority',
      'origin', 'webhook')
  end
  return all
end

-- Takes a recorded job for one attempt by `worker`. Answers {'granted', attempt, started_at, claimed_at,
-- deadline, tag}, {'busy', seconds}, or {'ended', status, promoted}.
local function grant(id, worker, lease_s, max_attempts, exhausted)
  local now = redis.call('HMGET', job_key(id), 'status', 'attempt', 'uncounted', 'deadline', 'lease_until', 'tag')
  local status, attempt = now[1], tonumber(now[2])
  if TERMINAL[status] then
    return { 'ended', status == 'withdrawn' and 'canceled' or status, {} }
  end
  local left_s = left(tonumber(now[4]))
  if left_s <= 0 then
    finish(id, 'expired')
    return { 'ended', 'expired', parts(hand_over(id)) }
  end
  if status == 'running' and tonumber(now[5]) > NOW then
    if tonumber(now[5]) > NOW + lease_s then
      lease(id, lease_s) -- by a clock that was ahead; a worker that lives renews it
    end
    return { 'busy', seconds(math.min(tonumber(now[5]) - NOW, lease_s)) }
  end
  if attempt - tonumber(now[3] or 0) >= max_attempts then
    local why = field(id, 'fault') or exhausted
    finish(id, 'failed', 'failure', why)
    return { 'ended', 'failed', parts(hand_over(id, why)) }
  end
  -- Not out of the outbox: a worker may take a job before its message is known to be with the broker.
  redis.call('ZREM', P .. 'waiting:' .. field(id, 'model'), id)
  redis.call('HSETNX', job_key(id), 'started_at', seconds(NOW))
  redis.call('HDEL', job_key(id), 'step', 'steps', 'fault')
  redis.call('HSET', job_key(id), 'status', 'running', 'attempt', attempt + 1, 'claimed_at', seconds(NOW),
    'worker', worker)
  lease(id, lease_s)
  announce(id, 'running')
  return { 'granted', attempt + 1, field(id, 'started_at'), seconds(NOW), seconds(NOW + left_s), now[6] or '0' }
end
