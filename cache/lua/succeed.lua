-- Ends a job and its followers with a result, all at once. ARGV: id, attempt, result. Answers whether it was applied.

regardless()
local id, attempt, result = ARGV[3], ARGV[4], ARGV[5]
if not fenced(id, attempt) then
  return 0
end
finish(id, 'succeeded', 'result', result)
if leads(id) then
  local key = field(id, 'key')
  local followers = P .. 'followers:' .. key
  local begun = tonumber(field(id, 'started_at'))
  for _, other in ipairs(redis.call('LRANGE', followers, 0, -1)) do
    if live(other) then
      local started = math.max(begun, tonumber(field(other, 'created_at')))
      finish(other, 'succeeded', 'result', result, 'started_at', seconds(started))
    end
  end
  redis.call('DEL', followers)
  -- Until the result cache is filled, those who come now find the result here.
  local flight = P .. 'flight:' .. key
  redis.call('HSET', flight, 'result', result)
  expire_at(flight, NOW + LANDED_GRACE_S)
end
return 1
