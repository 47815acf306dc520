-- Writes what people decided into the record of a job that shows the image, if its result is as the
-- caller has read it, and tells its owner. ARGV: id, the result as read, the new result; then, if the
-- search index is to know the image, the record for it as in `end.lua`, else ''; then the name of the image if
-- the index is to forget it, else ''. Answers whether the result was as read.

regardless()
local id = ARGV[3]
local job = load(id)
if not job or job.status ~= 'succeeded' or field(id, 'result') ~= ARGV[4] then
  return 0
end
local sequence = next_sequence(job)
redis.call('HSET', job_key(id), 'result', ARGV[5], 'sequence', sequence)
local key = P .. 'picture:' .. id
if ARGV[6] ~= '' then
  local picture = cjson.decode(ARGV[6])
  redis.call('HSET', key, 'tenant', job.tenant, picture.name, stamps(picture.keep_s) .. picture.rest)
  redis.call('PEXPIRE', key, math.ceil(picture.keep_s * 1000))
  owe_index(id, picture.keep_s)
end
local record = ARGV[7] ~= '' and redis.call('HGET', key, ARGV[7])
if record then
  -- The record goes too, or a rebuild of the index would find the image again.
  local member = table.concat({ ARGV[7], cjson.decode(record).scope, string.sub(id, -1) }, ' ')
  redis.call('ZADD', P .. 'unwanted', seconds(NOW), member)
  keep_longer(P .. 'unwanted', redis.call('PTTL', key))
  redis.call('HDEL', key, ARGV[7])
  if redis.call('HLEN', key) == 1 then
    redis.call('DEL', key) -- only the tenant is left
  end
end
if job.webhook then
  owe_moderated(id, job.webhook)
end
tell(id, 'moderated ' .. string.format('%d', sequence))
return 1
