-- Records an imported image, or a released one, and owes it to the search index, all or nothing. ARGV: id, tenant, the
-- image's name, keep_s, its record as JSON text without the first brace and without its times, and
-- '1' to record it anew. Answers 1; 0: it is recorded already.

local id, tenant, name, keep_s = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local picture, importers = P .. 'picture:' .. id, P .. 'importers:' .. name
if ARGV[8] ~= '1' and redis.call('EXISTS', picture) == 1 then
  return 0
end
redis.call('HSET', picture, 'tenant', tenant, name, stamps(keep_s) .. ARGV[7])
redis.call('PEXPIRE', picture, math.ceil(keep_s * 1000))
if string.sub(id, 1, 7) == 'import_' then
  redis.call('HSET', importers, id, 1)
  redis.call('PEXPIRE', importers, math.ceil(keep_s * 1000))
end
owe_index(id, keep_s)
return 1
