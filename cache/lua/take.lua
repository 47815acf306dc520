-- Takes those of the named jobs that still wait. ARGV: model, worker, lease_s, max_attempts, failure for when there are
-- no attempts left, the schema that the worker knows, ids... Answers {taken, promoted, newer}; each taken is {message parts,
-- attempt, started_at, claimed_at, deadline, tag}, and what is newer was left, for it needs a newer worker.

regardless()
local model, worker, lease_s, max_attempts, exhausted = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local schema = tonumber(ARGV[8])
local taken, promoted, newer = {}, {}, {}

-- Quotes inside of a text are escaped: only the field itself matches.
local function needed(request)
  return tonumber(string.match(request or '', '"min_schema":(%d+)') or 1)
end

for i = 9, #ARGV do
  local id = ARGV[i]
  local now = redis.call('HMGET', job_key(id), 'status', 'request')
  local status = now[1]
  if status ~= 'queued' then
    -- Taken by another a moment ago, or a place in the queue that has outlived its job.
    redis.call('ZREM', P .. 'waiting:' .. model, id)
  elseif needed(now[2]) > schema then
    newer[#newer + 1] = id
  else
    local verdict = grant(id, worker, lease_s, max_attempts, exhausted)
    if verdict[1] == 'granted' then
      taken[#taken + 1] = { parts({ id })[1], verdict[2], verdict[3], verdict[4], verdict[5], verdict[6] }
    elseif verdict[1] == 'ended' then
      for _, other in ipairs(verdict[3]) do
        promoted[#promoted + 1] = other
      end
    end
  end
end
return { taken, promoted, newer }
