-- How a recorded job moves from state to state (`store/states.py` has the table). Shared by all scripts.

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
