-- The fair order of a model's queue. Shared by all scripts.

-- The place of the flow's next job in the fair order: its start tag, and what `take_turn` needs.
-- This is the twin of `scheduler/fairness.py`. `beside`: workers of version 0.2.0 may run. They
-- keep the virtual time in a separate key. Without `beside` that key is only a fallback.
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

-- A job of the flow takes the place. `share` is its cost over its weight.
local function take_turn(turn, flow, share)
  redis.call('ZADD', turn.key, precise(turn.tag + share), flow)
  if turn.new then
    -- Flows that are not ahead of the virtual time need no entry.
    redis.call('ZREMRANGEBYSCORE', turn.key, '-inf', '(' .. precise(turn.now))
  end
  if math.abs(NOW - turn.kept_at) > RETENTION * SLACK then
    redis.call('ZADD', turn.key, seconds(NOW), '@')
    redis.call('PEXPIRE', turn.key, math.ceil(RETENTION * 1000))
  end
end
