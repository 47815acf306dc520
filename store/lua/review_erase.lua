-- Takes jobs of a tenant out of a review. The review goes with its last job. ARGV: its member of the
-- lists, what the case becomes for the others ('': it stays), 1 if the appeal is the tenant's, then the
-- ids. Answers 1 if the review is gone.

regardless()
local member = ARGV[3]
local key = P .. 'review:' .. member
for i = 6, #ARGV do
  redis.call('HDEL', key, 'job:' .. ARGV[i])
  redis.call('DEL', P .. 'held:' .. ARGV[i])
end
for _, name in ipairs(redis.call('HKEYS', key)) do
  if string.sub(name, 1, 4) == 'job:' then
    if ARGV[4] ~= '' then
      redis.call('HSET', key, 'case', ARGV[4])
    end
    if ARGV[5] == '1' then
      redis.call('HDEL', key, 'appeal')
    end
    redis.call('HINCRBY', key, 'version', 1)
    return 0
  end
end
redis.call('DEL', key)
for _, list in ipairs({ 'reviews', 'reviewed', 'unapplied', 'discards', 'unlooked' }) do
  redis.call('ZREM', P .. list, member)
end
return 1
