-- Ends jobs that workers run, each by itself. ARGV: a JSON list of documents {id, attempt, status;
-- result or failure, as JSON text; `address` and `ttl_ms`, if the result cache on this server is to
-- store the result; `pictures`, if images are to be recorded for the search index, each {name, keep_s,
-- rest: its record as JSON text without the first brace and without its times}; `held`, if images wait for
-- a person or were released by one, each {name, indexes, severity, keep_s, case, second_look: whether a
-- model looks first, `released`}; `hidden`, if the result has an image that its owner may not see;
-- `blocked`, if moderation blocks all its images: no follower tries again, and the
-- keys of all are owed so many images}. A job that succeeds ends its followers with its result. Any other
-- hands its key to one of them. Answers for each job {1, promoted}, {1, promoted, how many images there
-- was no room to record}, {0} if the lease does not hold, or {'failed', error}.

local docs = cjson.decode(ARGV[3])
local jobs, seen = {}, {}
for i, doc in ipairs(docs) do
  local job = not seen[doc.id] and load(doc.id)
  if fenced(job, doc.attempt) then
    jobs[i], seen[doc.id] = job, true
  end
end

-- Records the images of a job that is about to succeed. Answers for how long, in seconds; false: there
-- was no room.
local function record_pictures(job, pictures)
  local fields, longest = { 'tenant', job.tenant }, 0
  for _, picture in ipairs(pictures) do
    fields[#fields + 1] = picture.name
    fields[#fields + 1] = stamps(picture.keep_s) .. picture.rest
    longest = math.max(longest, picture.keep_s)
  end
  if type(redis.pcall('HSET', P .. 'picture:' .. job.id, unpack(fields))) == 'table' then
    return false
  end
  redis.call('PEXPIRE', P .. 'picture:' .. job.id, math.ceil(longest * 1000))
  return longest
end

-- Before all other writes: if the server is at its `maxmemory`, cache and index get nothing.
for i, doc in ipairs(docs) do
  if jobs[i] and doc.pictures then
    doc.recorded = record_pictures(jobs[i], doc.pictures)
  end
  if jobs[i] and doc.address then
    local before = redis.pcall('SET', ROOT .. 'result:' .. doc.address, doc.result, 'PX', doc.ttl_ms, 'GET')
    doc.cached = type(before) ~= 'table'
    if type(before) == 'string' and before ~= doc.result then
      redis.call('PUBLISH', ROOT .. 'results:forgotten', doc.address)
    end
  end
end

local function succeed(job, doc)
  local result = doc.result
  finish(job, 'succeeded', 'result', result)
  hold(job, doc.held or {})
  local flight = P .. 'flight:' .. job.key
  if redis.call('HGET', flight, 'leader') ~= job.id then
    return
  end
  local followers = P .. 'followers:' .. job.key
  local ids = redis.call('LRANGE', followers, 0, -1)
  for _, id in ipairs(ids) do
    local other = load(id)
    if is_live(other) then
      other.started_at = seconds(math.max(tonumber(job.started_at), tonumber(other.created_at)))
      finish(other, 'succeeded', 'result', result)
      hold(other, doc.held or {})
    end
  end
  if ids[1] then
    redis.call('DEL', followers)
  end
  if doc.cached or doc.hidden then
    redis.call('DEL', flight)
    return
  end
  -- Until the cache has the result, new requests find it here.
  redis.call('HSET', flight, 'result', result)
  expire_at(flight, NOW + LANDED_GRACE_S)
end

-- Owes the key of a job the images that it was charged, if its key has a limit of images. The account lies
-- in another slot: `store/refunds.py` pays.
local function owe_refund(job, images)
  local origin = field(job.id, 'origin')
  local key_id = origin and cjson.decode(origin).key_id
  if images > 0 and type(key_id) == 'string' then
    local member = table.concat({ key_id, images, job.created_at, job.id }, ' ')
    redis.call('ZADD', P .. 'refunds', seconds(NOW), member)
    keep_longer(P .. 'refunds', REFUND_KEEP_S * 1000)
  end
end

-- Ends a blocked job, and its followers with it.
local function block(job, doc)
  owe_refund(job, doc.blocked)
  finish(job, 'failed', 'failure', doc.failure)
  local flight, followers = P .. 'flight:' .. job.key, P .. 'followers:' .. job.key
  if redis.call('HGET', flight, 'leader') ~= job.id then
    redis.call('LREM', followers, 0, job.id)
    return
  end
  for _, id in ipairs(redis.call('LRANGE', followers, 0, -1)) do
    local other = load(id)
    if is_live(other) then
      owe_refund(other, doc.blocked)
      finish(other, 'failed', 'failure', doc.failure)
    end
  end
  redis.call('DEL', followers)
  redis.call('DEL', flight)
end

local function close(job, doc)
  if DONE[job.id] then
    if doc.recorded then
      redis.call('DEL', P .. 'picture:' .. job.id)
    end
    return { 0 } -- ended with its leader in this call
  end
  if doc.status == 'succeeded' then
    succeed(job, doc)
    if doc.recorded then
      owe_index(job.id, doc.recorded)
    elseif doc.pictures then
      return { 1, {}, #doc.pictures }
    end
    return { 1, {} }
  end
  if doc.blocked then
    block(job, doc)
    return { 1, {} }
  end
  finish(job, doc.status, doc.failure and 'failure', doc.failure)
  return { 1, records(hand_over(job, doc.failure)) }
end

local answers = {}
for i, doc in ipairs(docs) do
  if jobs[i] then
    answers[i] = apart(close, jobs[i], doc)
  else
    answers[i] = { 0 }
  end
end
return answers
