-- Undoes the submit of a leader that no worker has claimed. What is left is a mark that stops its message, should it
-- have reached the broker after all. ARGV: id. Answers {applied, promoted}.

regardless()
local id = ARGV[3]
local now = redis.call('HMGET', job_key(id), 'status', 'tenant', 'deadline')
if now[1] ~= 'queued' then
  return { 0, {} }
end
unlist(id)
redis.call('HSET', job_key(id), 'status', 'withdrawn')
count('withdrawn')
local promoted = parts(hand_over(id))
redis.call('ZREM', P .. 'tenant:' .. now[2], id)
expire_at(job_key(id), tonumber(now[3]))
return { 1, promoted }
