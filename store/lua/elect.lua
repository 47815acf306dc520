-- Takes or extends the sweeper lease. KEYS[1] is `darkroom:{house}:`. ARGV: name, lease_s, the
-- layout of the store as a document, its number of shards, its schema. Writes the layout if it is
-- missing. Answers 1 if the caller holds the lease, 0 if another process does. Answers -1 if the
-- store has another layout, or is being migrated.

regardless()
local layout = redis.call('GET', P .. 'layout')
if not layout then
  redis.call('SET', P .. 'layout', ARGV[5])
else
  local known, told = pcall(cjson.decode, layout)
  if not known or told.shards ~= tonumber(ARGV[6]) or told.schema > tonumber(ARGV[7]) then
    return -1
  end
end
if redis.call('EXISTS', P .. 'migration') == 1 then
  return -1
end
local key = P .. 'keeper'
local keeper = redis.call('GET', key)
local lease_ms = math.ceil(tonumber(ARGV[4]) * 1000)
if keeper and keeper ~= ARGV[3] then
  if redis.call('PTTL', key) > lease_ms then
    redis.call('PEXPIRE', key, lease_ms) -- set by a clock that was ahead; a live sweeper asks again
  end
  return 0
end
redis.call('SET', key, ARGV[3], 'PX', lease_ms)
return 1
