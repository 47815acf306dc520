-- Adds embeddings to records of imported images. ARGV: for each image the id, its name, and the record
-- with the embedding. A record that was erased meanwhile stays so.

for i = 3, #ARGV, 3 do
  local picture = P .. 'picture:' .. ARGV[i]
  if redis.call('HEXISTS', picture, ARGV[i + 1]) == 1 then
    redis.call('HSET', picture, ARGV[i + 1], ARGV[i + 2])
  end
end
