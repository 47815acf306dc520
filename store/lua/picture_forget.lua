-- Owes the search index deletions. ARGV: keep_s, then the names of the images (`store/pictures.py`).
-- An image that the index was not told of for `keep_s` has expired there by itself.

regardless()
local unwanted = P .. 'unwanted'
for i = 4, #ARGV do
  redis.call('ZADD', unwanted, seconds(NOW), ARGV[i])
end
redis.call('PEXPIRE', unwanted, math.ceil(tonumber(ARGV[3]) * 1000))
