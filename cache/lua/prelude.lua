-- What every transition shares; put before each script of this folder.
--
-- KEYS[1] is the prefix of a shard, `darkroom:{s0}:`; a store that is no cluster has only this one. All keys below begin with it, so that
-- in a cluster they live together and one script may touch them all. ARGV[1] shifts the clock (seconds, 0 outside of tests), ARGV[2] is the
-- retention of ended jobs (seconds). The arguments of a script itself begin at ARGV[3]; where it is told of a job, that is one JSON document.
--
--   job:<id>         hash   the record: static parts, status, stamps, attempt, lease, result or failure; names of previews
--   flight:<key>     hash   the computation of a key: leader, promotions, result once it has landed and no cache has it
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
--   events           channel `<id> <status>` or `<id> progress <step> <steps>`, one message per change; behind a status that is the
--                            last, as a rule, a JSON document of what has changed; and `<id> preview <index> <name>`, which changes nothing
--
-- Names without a shard, which no script of a cluster touches but those that are given them as KEYS[1]:
--
--   {fair:<model>}:finish  zset     each flow's last finish tag; the virtual time of the model's queue, under the empty name; and under `@`
--                                   when the time to live of it all was set
--   result:<address>       string   the result cache, where it is on the same server
--   results:forgotten      channel  addresses whose results do not hold any more
--   canceled:<worker>      channel  `<id>`, when a job was canceled in the worker's hands

local P = KEYS[1]
local ROOT = string.match(P, '^[^{]*')
local TIME = redis.call('TIME')
local NOW = tonumber(TIME[1]) + tonumber(TIME[2]) / 1e6 + tonumber(ARGV[1])
local RETENTION = tonumber(ARGV[2])
local MAX_PROMOTIONS = 2
local LANDED_GRACE_S = 10
local HOOK_KEEP_S = 4 * 86400 -- longer than the three days of attempts
local DOUBT_S = 10 -- a clock that is this far ahead of the last sweep may have been set
local TRIM = 4 -- places that a new job looks at in its tenant's list
local WHOLE = 1048576 -- bytes of results and failures that one call tells those who watch; the rest hear the status, and read the record
local SLACK = 1 / 16 -- of the retention: what is kept may be kept so much longer, where that saves a command
local TERMINAL = { succeeded = true, failed = true, canceled = true, expired = true, withdrawn = true }

-- What transitions ask a record for.
local FIELDS = { 'status', 'attempt', 'tenant', 'key', 'model', 'tag', 'created_at', 'deadline', 'started_at', 'lease_until',
  'uncounted', 'sequence', 'step', 'steps', 'fault', 'webhook', 'worker' }

-- Lets the script go on where the server is at its `maxmemory`. There a script is refused at its first write, unless that one can
-- only free memory (Redis' script.c, `scriptVerifyOOM`; the same from 6.2 on). What is accepted must end, and takes little room.
-- Scripts that record something new leave this out, and are refused; others begin with a ZREM, which does as well.
local function regardless()
  redis.call('DEL', P .. 'nothing')
end

local function seconds(time)
  return string.format('%.6f', time)
end

local function precise(tag)
  return string.format('%.17g', tag)
end

local function job_key(id)
  return P .. 'job:' .. id
end

local function field(id, name)
  return redis.call('HGET', job_key(id), name)
end

-- The record of a job, as far as FIELDS go: a table without what is not there; nil where there is no record.
local function load(id)
  local values = redis.call('HMGET', job_key(id), unpack(FIELDS))
  if not values[1] then
    return nil
  end
  local job = { id = id }
  for i, name in ipairs(FIELDS) do
    job[name] = values[i] or nil
  end
  return job
end

local function is_live(job)
  return job and not TERMINAL[job.status]
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

-- Tells those who watch the job of a change.
local function tell(id, change)
  redis.call('PUBLISH', P .. 'events', id .. ' ' .. change)
end

-- The number of the next change of a record.
local function next_sequence(job)
  return (tonumber(job.sequence) or 0) + 1
end

local function count(what)
  redis.call('HINCRBY', P .. 'counts', what, 1)
end

-- A tenant's list stays as long as the record of any job in it that must end by `deadline`.
local function keep_list(tenant, deadline)
  local key = P .. 'tenant:' .. tenant
  if redis.call('PTTL', key) < (deadline + RETENTION - NOW) * 1000 then
    expire_at(key, deadline + RETENTION * (1 + SLACK))
  end
end

-- Puts a new job, created at `created`, into its tenant's list and the books.
local function enlist(id, tenant, created, deadline)
  local mine = P .. 'tenant:' .. tenant
  -- The oldest places of what is no longer kept. A live job is kept however old it is, and a job that owes a webhook for days.
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', mine, '-inf', seconds(NOW - RETENTION), 'LIMIT', 0, TRIM)) do
    if redis.call('EXISTS', job_key(old)) == 0 then
      redis.call('ZREM', mine, old)
    end
  end
  redis.call('ZADD', mine, seconds(created), id)
  keep_list(tenant, deadline)
  count('recorded')
end

-- Writes the record of a job from its document, with more fields in `...`; `deadline` is when it must have ended.
local function record(doc, created, deadline, tag, ...)
  local more = { ... }
  if doc.webhook then
    more[#more + 1] = 'webhook'
    more[#more + 1] = doc.webhook
  end
  redis.call('HSET', job_key(doc.id), 'id', doc.id, 'tenant', doc.tenant, 'key', doc.key, 'model', doc.model, 'request', doc.request,
    'created_at', seconds(created), 'deadline', seconds(deadline), 'attempt', 0, 'priority', doc.priority, 'tag', tag,
    'origin', doc.origin, unpack(more))
end

-- Records a job that is queued.
local function record_queued(doc, created, deadline, tag, cache)
  record(doc, created, deadline, tag, 'status', 'queued', 'cache', cache)
  expire_at(job_key(doc.id), deadline + RETENTION)
  enlist(doc.id, doc.tenant, created, deadline)
  redis.call('ZADD', P .. 'deadlines', seconds(deadline), doc.id)
end

-- The duty to tell of a job's end is born with it. Its record stays as long as the duty may.
local function owe(id, status, webhook)
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

-- Records a job that is born succeeded, with `result`.
local function record_succeeded(doc, deadline, result)
  record(doc, NOW, deadline, '0', 'status', 'succeeded', 'cache', 'hit', 'result', result, 'started_at', seconds(NOW),
    'finished_at', seconds(NOW), 'sequence', 1)
  redis.call('PEXPIRE', job_key(doc.id), math.ceil(RETENTION * 1000))
  enlist(doc.id, doc.tenant, NOW, deadline)
  count('succeeded')
  if doc.webhook then
    owe(doc.id, 'succeeded', doc.webhook)
  end
  tell(doc.id, 'succeeded')
end

-- The turn of the flow's next job (`scheduler/fairness.py`, of which this is the twin): its start tag, and what `take_turn` needs.
-- `beside`: workers of version 0.2.0 may run, which keep the virtual time in a key of its own; without it that key only helps out.
local function next_turn(model, flow, beside)
  local fair = ROOT .. '{fair:' .. model .. '}:'
  local known = redis.call('ZMSCORE', fair .. 'finish', '', flow, '@')
  local now = tonumber(known[1] or 0)
  if beside or not known[1] then
    now = math.max(now, tonumber(redis.call('ZSCORE', fair .. 'clock', 'now') or 0))
  end
  return { key = fair .. 'finish', now = now, tag = math.max(now, tonumber(known[2] or 0)), new = not known[2],
    kept_at = tonumber(known[3] or 0) }
end

-- A job of the flow that costs `share` over its weight takes the turn.
local function take_turn(turn, flow, share)
  redis.call('ZADD', turn.key, precise(turn.tag + share), flow)
  if turn.new then
    -- Flows that are not ahead of the virtual time are as good as none.
    redis.call('ZREMRANGEBYSCORE', turn.key, '-inf', '(' .. precise(turn.now))
  end
  if math.abs(NOW - turn.kept_at) > RETENTION * SLACK then
    redis.call('ZADD', turn.key, seconds(NOW), '@')
    redis.call('PEXPIRE', turn.key, math.ceil(RETENTION * 1000))
  end
end

local function to_waiting(job)
  redis.call('ZADD', P .. 'waiting:' .. job.model, job.tag, job.id)
end

-- Takes a live job out of all that lists it.
local function unlist(job)
  redis.call('ZREM', P .. 'outbox', job.id)
  redis.call('ZREM', P .. 'leases', job.id)
  redis.call('ZREM', P .. 'deadlines', job.id)
  if job.status == 'queued' then
    redis.call('ZREM', P .. 'waiting:' .. job.model, job.id)
  end
end

-- The running job is nobody's any more, and waits again.
local function wait_again(job)
  redis.call('HSET', job_key(job.id), 'status', 'queued', 'sequence', next_sequence(job))
  redis.call('HDEL', job_key(job.id), 'lease_until', 'worker', 'claimed_at', 'step', 'steps')
  to_waiting(job)
  tell(job.id, 'queued')
end

-- Makes the job the leader of its key, `promotions` failures after the first one.
local function lead(job, promotions)
  local flight = P .. 'flight:' .. job.key
  redis.call('HSET', flight, 'leader', job.id, 'promotions', promotions)
  expire_at(flight, tonumber(job.deadline) + RETENTION)
  to_waiting(job)
end

local function to_outbox(id)
  redis.call('ZADD', P .. 'outbox', seconds(NOW), id)
end

-- What watchers are told of an end: `what` is 'result' or 'failure', `document` that as JSON.
local function ending(job, what, document)
  local parts = { '{"finished_at":' .. seconds(NOW), '"attempt":' .. (job.attempt or 0), '"sequence":' .. next_sequence(job),
    '"deadline":' .. job.deadline }
  if job.started_at then
    parts[#parts + 1] = '"started_at":' .. job.started_at
  end
  if job.step and job.steps then
    parts[#parts + 1] = '"progress":{"step":' .. job.step .. ',"steps":' .. job.steps .. '}'
  end
  if what then
    parts[#parts + 1] = '"' .. what .. '":' .. document
  end
  return table.concat(parts, ',') .. '}'
end

-- What a call tells collects in the connections of those who listen, and one that holds too much is cut.
local told = 0
local function tell_end(job, status, what, document)
  if told >= WHOLE then
    tell(job.id, status)
    return
  end
  local more = ending(job, what, document)
  told = told + #more
  tell(job.id, status .. ' ' .. more)
end

local DONE = {} -- the jobs that this call has ended

-- Ends a live job; with a result or a failure (`what`), as JSON.
local function finish(job, status, what, document)
  DONE[job.id] = true
  unlist(job)
  local more = what and { what, document } or {}
  if what == 'result' and job.started_at then
    more[3], more[4] = 'started_at', job.started_at
  end
  redis.call('HSET', job_key(job.id), 'status', status, 'finished_at', seconds(NOW), 'sequence', next_sequence(job), unpack(more))
  redis.call('PEXPIRE', job_key(job.id), math.ceil(RETENTION * 1000))
  count(status)
  if job.webhook then
    owe(job.id, status, job.webhook)
  end
  tell_end(job, status, what, document)
end

local function leads(job)
  return redis.call('HGET', P .. 'flight:' .. job.key, 'leader') == job.id
end

-- Who is told how the running job gets on: itself and, where it leads, the live ones among its first `most` followers.
local function watched(job, most)
  local jobs = { job }
  if leads(job) then
    for _, other in ipairs(redis.call('LRANGE', P .. 'followers:' .. job.key, 0, most - 1)) do
      local follower = load(other)
      if is_live(follower) then
        jobs[#jobs + 1] = follower
      end
    end
  end
  return jobs
end

-- The leader has ended without a picture: its key goes to the oldest live follower. With `failure` that counts
-- against the flight, and once too often the rest fail alike. Answers the ids of those who lead now.
local function hand_over(job, failure)
  local flight, followers = P .. 'flight:' .. job.key, P .. 'followers:' .. job.key
  local now = redis.call('HMGET', flight, 'leader', 'promotions')
  if now[1] ~= job.id then
    redis.call('LREM', followers, 0, job.id)
    return {}
  end
  local promotions = tonumber(now[2])
  while true do
    local id = redis.call('LPOP', followers)
    if not id then
      redis.call('DEL', flight)
      return {}
    end
    local heir = load(id)
    if is_live(heir) then
      if not (failure and promotions >= MAX_PROMOTIONS) then
        -- With the turn of the one before.
        heir.tag = job.tag
        redis.call('HSET', job_key(id), 'tag', job.tag)
        redis.call('HDEL', job_key(id), 'step', 'steps')
        lead(heir, failure and promotions + 1 or promotions)
        to_outbox(id)
        return { id }
      end
      finish(heir, 'failed', 'failure', failure)
    end
  end
end

-- Lets the running job be its worker's for `lease_s` from now.
local function lease(id, lease_s)
  local lapse = seconds(NOW + lease_s)
  redis.call('HSET', job_key(id), 'lease_until', lapse)
  redis.call('ZADD', P .. 'leases', lapse, id)
end

-- Whether the lease of attempt `attempt` still holds the job.
local function fenced(job, attempt)
  return job and job.status == 'running' and job.attempt == tostring(attempt)
end

-- The records of jobs, each as HGETALL answers it.
local function records(ids)
  local all = {}
  for i, id in ipairs(ids) do
    all[i] = redis.call('HGETALL', job_key(id))
  end
  return all
end

-- Takes a recorded job for one attempt by a worker: `by` is its document, {worker, lease_s, max_attempts, exhausted: the failure for
-- when there are no attempts left}. Answers {'granted', attempt, started_at, claimed_at, deadline, tag}, {'busy', seconds}, or
-- {'ended', status, promoted}.
local function grant(job, by)
  if TERMINAL[job.status] then
    return { 'ended', job.status == 'withdrawn' and 'canceled' or job.status, {} }
  end
  local left_s = left(tonumber(job.deadline))
  if left_s <= 0 then
    finish(job, 'expired')
    return { 'ended', 'expired', records(hand_over(job)) }
  end
  local busy = job.status == 'running' and tonumber(job.lease_until) > NOW
  if busy then
    if tonumber(job.lease_until) > NOW + by.lease_s then
      lease(job.id, by.lease_s) -- by a clock that was ahead; a worker that lives renews it
    end
    return { 'busy', seconds(math.min(tonumber(job.lease_until) - NOW, by.lease_s)) }
  end
  local attempt = tonumber(job.attempt)
  if attempt - tonumber(job.uncounted or 0) >= by.max_attempts then
    local why = job.fault or by.exhausted
    finish(job, 'failed', 'failure', why)
    return { 'ended', 'failed', records(hand_over(job, why)) }
  end
  -- Not out of the outbox: a worker may take a job before its message is known to be with the broker.
  redis.call('ZREM', P .. 'waiting:' .. job.model, job.id)
  local started, lapse = job.started_at or seconds(NOW), seconds(NOW + by.lease_s)
  if job.step or job.fault then
    redis.call('HDEL', job_key(job.id), 'step', 'steps', 'fault')
  end
  redis.call('HSET', job_key(job.id), 'status', 'running', 'attempt', attempt + 1, 'started_at', started,
    'claimed_at', seconds(NOW), 'worker', by.worker, 'lease_until', lapse, 'sequence', next_sequence(job))
  redis.call('ZADD', P .. 'leases', lapse, job.id)
  tell(job.id, 'running')
  return { 'granted', attempt + 1, started, seconds(NOW), seconds(NOW + left_s), job.tag or '0' }
end
