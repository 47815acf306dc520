-- How a recorded job moves from state to state (the table is in `store/states.py`). Shared by all
-- scripts.

local function to_waiting(job)
  redis.call('ZADD', P .. 'waiting:' .. job.model, job.tag, job.id)
end

-- Takes a live job out of all indices of live jobs.
local function unlist(job)
  redis.call('ZREM', P .. 'outbox', job.id)
  redis.call('ZREM', P .. 'leases', job.id)
  redis.call('ZREM', P .. 'deadlines', job.id)
  if job.status == 'queued' then
    redis.call('ZREM', P .. 'waiting:' .. job.model, job.id)
  end
end

-- Takes the running job from its worker. It waits again.
local function wait_again(job)
  redis.call('HSET', job_key(job.id), 'status', 'queued', 'sequence', next_sequence(job))
  redis.call('HDEL', job_key(job.id), 'lease_until', 'worker', 'claimed_at', 'step', 'steps')
  to_waiting(job)
  tell(job.id, 'queued')
end

-- Makes the job the leader of its key. `promotions` counts the leaders of this flight that have
-- failed.
local function lead(job, promotions)
  local flight = P .. 'flight:' .. job.key
  redis.call('HSET', flight, 'leader', job.id, 'promotions', promotions)
  expire_at(flight, tonumber(job.deadline) + RETENTION)
  to_waiting(job)
end

local function to_outbox(id)
  redis.call('ZADD', P .. 'outbox', seconds(NOW), id)
end

-- The document of an end for watchers. `what` is 'result' or 'failure', and `document` is that as
-- JSON.
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

-- The events of one call collect in the connections of the listeners. Redis closes a connection
-- that holds too much.
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

-- Ends a live job. `what` is 'result' or 'failure' if there is one, and `document` is that as JSON.
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

-- The jobs that share the progress of the running job: itself and, if it leads, the live ones among
-- its first `most` followers.
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

-- The leader has ended without images. Its key goes to the oldest live follower. With `failure`
-- that counts against the flight. After MAX_PROMOTIONS of these, the remaining followers fail as
-- well. Answers the ids of the new leaders.
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
        -- With the leader's place in the order.
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

-- Leases the running job to its worker for `lease_s` seconds from now.
local function lease(id, lease_s)
  local lapse = seconds(NOW + lease_s)
  redis.call('HSET', job_key(id), 'lease_until', lapse)
  redis.call('ZADD', P .. 'leases', lapse, id)
end

-- Whether the lease of attempt `attempt` still holds the job.
local function fenced(job, attempt)
  return job and job.status == 'running' and job.attempt == tostring(attempt)
end

-- The records of jobs, each in the form of HGETALL.
local function records(ids)
  local all = {}
  for i, id in ipairs(ids) do
    all[i] = redis.call('HGETALL', job_key(id))
  end
  return all
end

-- Takes a recorded job for one attempt by a worker. `by` is a document {worker, lease_s,
-- max_attempts, exhausted: the failure if no attempts are left}. Answers {'granted', attempt,
-- started_at, claimed_at, deadline, tag}, {'busy', seconds}, or {'ended', status, promoted}.
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
      lease(job.id, by.lease_s) -- set by a clock that was ahead; a live worker renews it
    end
    return { 'busy', seconds(math.min(tonumber(job.lease_until) - NOW, by.lease_s)) }
  end
  local attempt = tonumber(job.attempt)
  if attempt - tonumber(job.uncounted or 0) >= by.max_attempts then
    local why = job.fault or by.exhausted
    finish(job, 'failed', 'failure', why)
    return { 'ended', 'failed', records(hand_over(job, why)) }
  end
  -- The job stays in the outbox: a worker may take it before its message is known to be with the
  -- broker.
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
