-- A decision is carried out. ARGV: its member of the lists, the version of the review that it was read
-- with, or '' if the review is gone. With another version, the decision stays due.

regardless()
local version = redis.call('HGET', P .. 'review:' .. ARGV[3], 'version')
if not version or version == ARGV[4] then
  redis.call('ZREM', P .. 'unapplied', ARGV[3])
  return 1
end
return 0
