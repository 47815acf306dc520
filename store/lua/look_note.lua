-- Writes what came of a second look into its review, unless the model has answered before. ARGV: member,
-- the document, then the outcomes that are answers. Answers the document that the review has now, '' if the
-- review is gone.

regardless()
local key = P .. 'review:' .. ARGV[3]
if redis.call('EXISTS', key) == 0 then
  return ''
end
local there = redis.call('HGET', key, 'second_look')
if there then
  local outcome = cjson.decode(there).outcome
  for i = 5, #ARGV do
    if outcome == ARGV[i] then
      return there
    end
  end
end
redis.call('HSET', key, 'second_look', ARGV[4])
return ARGV[4]
