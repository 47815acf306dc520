-- How a job is recorded: its record, its tenant's list, the counts, and the webhook that its end
-- will owe. Shared by all scripts.

-- Keeps a tenant's list as long as the record of a job in it that must end by `deadline`.
local function keep_list(tenant, deadline)
  local key = P .. 'tenant:' .. tenant
  if redis.call('PTTL', key) < (deadline + RETENTION - NOW) * 1000 then
    expire_at(key, deadline + RETENTION * (1 + SLACK))
  end
end

-- Puts a new job into its tenant's list and the counts. `created` is when it was created.
local function enlist(id, tenant, created, deadline)
  local mine = P .. 'tenant:' .. tenant
  -- Trims the oldest places whose records are gone. A live job is kept however old it is, and a job
  -- that owes a webhook for days.
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', mine, '-inf', seconds(NOW - RETENTION), 'LIMIT', 0, TRIM)) do
    if redis.call('EXISTS', job_key(old)) == 0 then
      redis.call('ZREM', mine, old)
    end
  end
  redis.call('ZADD', mine, seconds(created), id)
  keep_list(tenant, deadline)
  count('recorded')
end

-- Writes the record of a job from its document, with more fields in `...`. The job must end by
-- `deadline`.
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

-- Records a queued job.
local function record_queued(doc, created, deadline, tag, cache)
  record(doc, created, deadline, tag, 'status', 'queued', 'cache', cache)
  expire_at(job_key(doc.id), deadline + RETENTION)
  enlist(doc.id, doc.tenant, created, deadline)
  redis.call('ZADD', P .. 'deadlines', seconds(deadline), doc.id)
end

-- Records the duty to deliver a webhook, together with the job's end. The record stays at least as
-- long as the duty.
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

-- Owes the search index the images of the job or import, whose records stay for `keep_s`.
local function owe_index(id, keep_s)
  local unindexed = P .. 'unindexed'
  -- Without an index, nobody takes what has expired.
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', unindexed, '-inf', seconds(NOW - keep_s), 'LIMIT', 0, TRIM)) do
    if redis.call('EXISTS', P .. 'picture:' .. old) == 0 then
      redis.call('ZREM', unindexed, old)
    end
  end
  redis.call('ZADD', unindexed, seconds(NOW), id)
  redis.call('PUBLISH', unindexed, id)
end

-- The two times of an image's record, as the beginning of its JSON.
local function stamps(keep_s)
  return '{"created_at":' .. seconds(NOW) .. ',"expires_at":' .. seconds(NOW + keep_s) .. ','
end

-- Begins the duty to deliver `job.moderated`, after the attempts that the hook has made before. `base` is
-- their number, `round` counts the events of the job.
local function begin_round(hook_key, id)
  redis.call('HDEL', hook_key, 'again', 'until')
  local made = redis.call('HGET', hook_key, 'attempt') or 0
  redis.call('HINCRBY', hook_key, 'round', 1)
  redis.call('HSET', hook_key, 'event', 'job.moderated', 'status', 'pending', 'attempt', made, 'base', made, 'owed_at',
    seconds(NOW), 'next_at', seconds(NOW))
  local keep_ms = math.ceil(math.max(RETENTION, HOOK_KEEP_S) * 1000)
  for _, kept in ipairs({ hook_key, job_key(id), P .. 'hooklog:' .. id }) do
    if redis.call('PTTL', kept) < keep_ms then
      redis.call('PEXPIRE', kept, keep_ms)
    end
  end
  redis.call('ZADD', P .. 'hooks', seconds(NOW), id)
  redis.call('PUBLISH', P .. 'hooks', id)
end

-- Records the duty to tell that people have decided on images of a job. If another event of the job is
-- not delivered yet, this one follows it.
local function owe_moderated(id, webhook)
  for _, wanted in ipairs(cjson.decode(webhook).events) do
    if wanted == 'job.moderated' then
      local hook_key = P .. 'hook:' .. id
      if redis.call('HGET', hook_key, 'status') == 'pending' then
        redis.call('HSET', hook_key, 'again', 1)
      else
        begin_round(hook_key, id)
      end
    end
  end
end

-- Keeps a key at least as long as `keep_ms`.
local function keep_longer(key, keep_ms)
  if redis.call('PTTL', key) < keep_ms then
    redis.call('PEXPIRE', key, keep_ms)
  end
end

-- The file of an image is to be deleted in `after_s`. If people have not decided by then, the review
-- ends without them.
local function discard_in(member, after_s, keep_ms)
  redis.call('ZADD', P .. 'discards', seconds(NOW + after_s), member)
  keep_longer(P .. 'discards', keep_ms)
end

-- A review that nobody decides ends shortly before its record does: `keep_ms` from now.
local function lapse_later(member, keep_ms)
  discard_in(member, keep_ms / 1000 - math.min(LAPSE_S, keep_ms / 16000), keep_ms)
end

-- Lists an image that waits for a person: the gravest first, then the oldest. `keep_ms`: how long it
-- is kept.
local function list_review(member, severity, since, keep_ms)
  lapse_later(member, keep_ms)
  redis.call('ZADD', P .. 'reviews', string.format('%.6f', (4 - tonumber(severity)) * 1e11 + tonumber(since)), member)
  redis.call('PEXPIRE', P .. 'reviews', math.max(keep_ms, redis.call('PTTL', P .. 'reviews')))
end

-- The decision on an image is to be carried out.
local function due_review(member, keep_ms)
  redis.call('ZADD', P .. 'unapplied', seconds(NOW), member)
  redis.call('PEXPIRE', P .. 'unapplied', math.max(keep_ms, redis.call('PTTL', P .. 'unapplied')))
end

-- A model owes a new review a look.
local function owe_look(member, keep_ms)
  local key = P .. 'review:' .. member
  redis.call('HSET', key, 'look_owed', seconds(NOW), 'look_attempt', 0)
  redis.call('ZADD', P .. 'unlooked', seconds(NOW), member)
  redis.call('PEXPIRE', P .. 'unlooked', math.max(keep_ms, redis.call('PTTL', P .. 'unlooked')))
  redis.call('PUBLISH', P .. 'unlooked', member)
end

-- Records that images of the job, or of another record, wait for a person, or are shown because a person has
-- released them. `job.id` nil: nothing names the images, and `job.digit` says where the review lies. If people have decided
-- otherwise on one of them meanwhile, their decision is due to be carried out for this job. The records of job and
-- review stay for as long as the file.
local function hold(job, held)
  for _, image in ipairs(held) do
    local member = image.name .. ':' .. (job.digit or string.sub(job.id, -1))
    local key, keep_ms = P .. 'review:' .. member, math.ceil(image.keep_s * 1000)
    local state, shown = redis.call('HGET', key, 'state'), image.released and 'released' or 'waiting'
    if not state then
      redis.call('HSET', key, 'state', shown, 'severity', image.severity, 'created_at', seconds(NOW), 'case', image.case)
    end
    redis.call('HINCRBY', key, 'version', 1)
    if state == 'refused' and redis.call('HGET', key, 'discarded') == '1' then
      -- It cannot be undone, so the file that was stored now is of no use. The review ends when it would have ended.
      discard_in(member, 0, redis.call('PTTL', key))
    else
      keep_longer(key, keep_ms)
    end
    if job.id then
      redis.call('HSET', key, 'job:' .. job.id, image.indexes .. ' ' .. job.tenant)
      for index in string.gmatch(image.indexes, '%d+') do
        redis.call('HSET', P .. 'held:' .. job.id, index, image.name)
      end
      for _, kept in ipairs({ P .. 'held:' .. job.id, job_key(job.id), P .. 'tenant:' .. job.tenant }) do
        keep_longer(kept, keep_ms)
      end
    end
    if not state and image.released then
      redis.call('ZADD', P .. 'reviewed', seconds(NOW), member)
      keep_longer(P .. 'reviewed', keep_ms)
    elseif not state then
      list_review(member, image.severity, NOW, keep_ms)
      if image.second_look then
        owe_look(member, keep_ms)
      end
    elseif state == 'waiting' then
      redis.call('HDEL', key, 'over')
      lapse_later(member, redis.call('PTTL', key))
    end
    if state ~= shown then
      -- Also for a new one: people may have decided on the same image in a review of another shard.
      due_review(member, keep_ms)
    end
  end
end

-- Records a job that succeeds at once, with `result`.
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
