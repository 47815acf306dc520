-- Takes images away that were shown: from the record of a job or of pictures, if it is as the caller has read it. ARGV:
-- a document {id; before, after: the result of the job as read and as it is now; held: as in `end.lua`;
-- pictures: names of images whose records for the search index go; unwanted: these images as the index is told of
-- them; keep_s: for how long it is}. Without `before`, the record of the pictures stands for that of the job. Without
-- an id, nothing names the images, and `digit` says where their reviews lie. Answers whether the record was as read.

regardless()
local doc = cjson.decode(ARGV[3])
local id, picture = doc.id, doc.id and P .. 'picture:' .. doc.id
local job, tenant
if doc.before then
  job = load(id)
  if not job or job.status ~= 'succeeded' or field(id, 'result') ~= doc.before then
    return 0
  end
elseif id then
  if redis.call('HEXISTS', picture, doc.pictures[1]) == 0 then
    return 0
  end
  tenant = redis.call('HGET', picture, 'tenant') or ''
end

for _, name in ipairs(doc.pictures) do
  redis.call('HDEL', picture, name)
  redis.call('HDEL', P .. 'importers:' .. name, id)
end
if id and redis.call('HLEN', picture) <= 1 then -- only the tenant is left
  redis.call('DEL', picture)
  redis.call('ZREM', P .. 'unindexed', id)
end
local unwanted = P .. 'unwanted'
for _, member in ipairs(doc.unwanted) do
  redis.call('ZADD', unwanted, seconds(NOW), member)
  redis.call('PEXPIRE', unwanted, math.ceil(doc.keep_s * 1000))
end

hold(job or { id = id, tenant = tenant, digit = doc.digit }, doc.held)
if doc.before then
  local sequence = next_sequence(job)
  redis.call('HSET', job_key(id), 'result', doc.after, 'sequence', sequence)
  if job.webhook then
    owe_moderated(id, job.webhook)
  end
  tell(id, 'moderated ' .. string.format('%d', sequence))
end
return 1
