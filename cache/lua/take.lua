-- Takes those of the named jobs that still wait. ARGV: model, worker, lease_s, max_attempts, failure for when there are
-- no attempts left, ids... Answers {taken, promoted}; each taken is {message parts, attempt, started_at, claimed_at, deadline,
-- tag}.

local model, worker, lease_s, max_attempts, exhausted = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local taken, promoted = {}, {}
for i = 8, #ARGV do
  local id = ARGV[i]
  local status = field(id, 'status')
  if status ~= 'queued' then
    -- Taken by another a moment ago, or a place in the queue that has outlived its job.
    redis.call('ZREM', P .. 'waiting:' .. model, id)
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
return { taken, promoted }
