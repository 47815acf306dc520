-- Adds a picture to a scope, or replaces it. Nothing changes if it is there as it is.
-- KEYS[1]: the prefix of the scope's keys. ARGV: name, vector (float32), attributes for filters (JSON), record (JSON), created,
-- expires, facts (JSON; the last item of the array is the terms, joined by spaces).
local base, name = KEYS[1], ARGV[1]

local function each_term(facts, act)
  local list = cjson.decode(facts)
  for term in list[#list]:gmatch('[^ ]+') do
    act(base .. 'word:' .. term)
  end
end

if redis.call('HGET', base .. 'records', name) == ARGV[4] then
  return 0
end
local old = redis.call('HGET', base .. 'facts', name)
if old then
  each_term(old, function(key) redis.call('ZREM', key, name) end)
end
redis.call('VADD', base .. 'vectors', 'FP32', ARGV[2], name, 'NOQUANT', 'EF', '200', 'SETATTR', ARGV[3])
redis.call('HSET', base .. 'records', name, ARGV[4])
redis.call('HSET', base .. 'facts', name, ARGV[7])
redis.call('ZADD', base .. 'expiry', ARGV[6], name)
redis.call('ZADD', base .. 'created', ARGV[5], name)
each_term(ARGV[7], function(key) redis.call('ZADD', key, ARGV[5], name) end)
return 1
