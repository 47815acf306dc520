-- Deletes the records of a job's images, or of an imported one, and owes the search index the deletion
-- of some of them, all or nothing. ARGV: id, keep_s, names of the images as a JSON list (`store/pictures.py`).

regardless()
local id, unwanted = ARGV[3], P .. 'unwanted'
redis.call('ZREM', P .. 'unindexed', id)
for _, image in ipairs(cjson.decode(ARGV[5])) do
  redis.call('ZADD', unwanted, seconds(NOW), image)
  redis.call('PEXPIRE', unwanted, math.ceil(tonumber(ARGV[4]) * 1000))
end
local picture = P .. 'picture:' .. id
for _, name in ipairs(string.sub(id, 1, 7) == 'import_' and redis.call('HKEYS', picture) or {}) do
  redis.call('HDEL', P .. 'importers:' .. name, id)
end
redis.call('DEL', picture)
