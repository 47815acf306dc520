-- Takes waiting jobs of a model, the smallest fair tags first. ARGV: a JSON document of the worker
-- (`grant` in moves.lua), with the model, the `limit`, the `schema` that the worker knows, and
-- `most_newer`, how many jobs that need a newer schema it passes over; `ids`, if these jobs are to
-- be taken and not the first of this shard. Answers {taken, promoted, newer}. Each taken job is
-- {record as it was, attempt, started_at, claimed_at, deadline, tag}. Jobs in `newer` were left,
-- since they need a newer worker.

local by = cjson.decode(ARGV[3])
local waiting = P .. 'waiting:' .. by.model
local taken, promoted, newer = {}, {}, {}

-- Quotes inside a text are escaped, so only the field itself matches.
local function needed(request)
  return tonumber(string.match(request or '', '"min_schema":%s*(%d+)') or 1)
end

local function take(id)
  local flat, job = redis.call('HGETALL', job_key(id)), {}
  for i = 1, #flat, 2 do
    job[flat[i]] = flat[i + 1]
  end
  if job.status ~= 'queued' then
    -- Another worker has just taken it, or the place in the queue has outlived its job.
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
  -- Jobs that were taken or had ended have left the queue. Newer ones keep their places.
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
