-- Changes the review of an image, if it is as the caller has read it. ARGV: its member of the lists, its
-- version, a document {fields: what to write; gone: names of fields to delete; listed: whether it waits
-- for a person; due: whether a decision is to be carried out; discard_s: after how many seconds its file
-- is to be deleted, -1: never; a review that waits has a time of its own}. Answers whether it was as read.

regardless()
local member, doc = ARGV[3], cjson.decode(ARGV[5])
local key = P .. 'review:' .. member
if redis.call('HGET', key, 'version') ~= ARGV[4] then
  return 0
end
for name, value in pairs(doc.fields) do
  redis.call('HSET', key, name, value)
end
for _, name in ipairs(doc.gone) do
  redis.call('HDEL', key, name)
end
redis.call('HINCRBY', key, 'version', 1)
local now, keep_ms = redis.call('HMGET', key, 'severity', 'created_at'), redis.call('PTTL', key)
if doc.listed then
  list_review(member, now[1], now[2], keep_ms)
  redis.call('ZREM', P .. 'reviewed', member)
else
  redis.call('ZREM', P .. 'reviews', member)
  redis.call('ZADD', P .. 'reviewed', seconds(NOW), member)
  keep_longer(P .. 'reviewed', keep_ms)
  if doc.discard_s < 0 then
    redis.call('ZREM', P .. 'discards', member)
  else
    discard_in(member, doc.discard_s, keep_ms)
  end
end
if doc.due then
  due_review(member, keep_ms)
end
return 1
