-- Deletes pictures of a scope, and answers how many there were.
-- KEYS[1]: the prefix of the scope's keys. ARGV: names.
local base, gone = KEYS[1], 0
for _, name in ipairs(ARGV) do
  local facts = redis.call('HGET', base .. 'facts', name)
  if facts then
    local list = cjson.decode(facts)
    for term in list[#list]:gmatch('[^ ]+') do
      redis.call('ZREM', base .. 'word:' .. term, name)
    end
    redis.call('VREM', base .. 'vectors', name)
    redis.call('HDEL', base .. 'records', name)
    redis.call('HDEL', base .. 'facts', name)
    redis.call('ZREM', base .. 'expiry', name)
    redis.call('ZREM', base .. 'created', name)
    gone = gone + 1
  end
end
return gone
