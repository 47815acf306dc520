-- Takes jobs of a model that wait, the smallest fair tags first. ARGV: a JSON document of who takes (`grant` in moves.lua), with the
-- model, the `limit`, the `schema` that the worker knows, how many jobs that need a newer one it goes past (`most_newer`); and `ids`
-- where these, and not the first of this shard, are to be taken.
-- Answers {taken, promoted, newer}; each taken is {record as it was, attempt, started_at, claimed_at, deadline, tag}, and what is newer
-- was left, for it needs a newer worker.

local by = cjson.decode(ARGV[3])
local waiting = P .. 'waiting:' .. by.model
local taken, promoted, newer = {}, {}, {}

-- Quotes inside of a text are escaped: only the field itself matches.
local function needed(request)
  return tonumber(string.match(request or '', '"min_schema":%s*(%d+)') or 1)
end

local function take(id)
  local flat, job = redis.call('HGETALL', job_key(id)), {}
  for i = 1, #flat, 2 do
    job[flat[i]] = flat[i + 1]
  end
  if job.status ~= 'queued' then
    -- Taken by another a moment ago, or a place in the queue that has outlived its job.
    redis.call('ZREM', waiting, id)
    return
  end
  if needed(job.request) > by.schema then
    newer[#newer + 1] = id
    return
  end
  job.id = id
  local verdict = grant(job, by)
  if verdict[1] == 'granted' then
    taken[#taken + 1] = { flat, verdict[2], verdict[3], verdict[4], verdict[5], verdict[6] }
  elseif verdict[1] == 'ended' then
    for _, other in ipairs(verdict[3]) do
      promoted[#promoted + 1] = other
    end
  end
end

if by.ids then
  for _, id in ipairs(by.ids) do
    take(id)
  end
  return { taken, promoted, newer }
end

local wanted, ids = by.limit, nil
repeat
  -- What was taken, or had ended, has left its place; what is newer keeps it.
  ids = redis.call('ZRANGE', waiting, #newer, #newer + wanted - 1)
  for _, id in ipairs(ids) do
    take(id)
  end
until #ids < wanted or #newer == 0 or #taken > 0 or #promoted > 0 or #newer > by.most_newer
if taken[1] then
  local finish = ROOT .. '{fair:' .. by.model .. '}:finish'
  if redis.call('ZADD', finish, 'GT', taken[#taken][6], '') == 1 then
    redis.call('PEXPIRE', finish, math.ceil(RETENTION * 1000))
  end
end
return { taken, promoted, newer }
