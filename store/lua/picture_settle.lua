-- The search index has the images of these jobs. ARGV: ids. Answers those without records: they were
-- erased after the index had read them, or have expired.

regardless()
local gone = {}
for i = 3, #ARGV do
  redis.call('ZREM', P .. 'unindexed', ARGV[i])
  if redis.call('EXISTS', P .. 'picture:' .. ARGV[i]) == 0 then
    gone[#gone + 1] = ARGV[i]
  end
end
return gone
