-- A tenant's secrets, as a JSON list, the current one first. KEYS[1] is the key of the tenant's
-- secrets, so no shard is touched. ARGV: a fresh secret, '1' to rotate, overlap_s. The fresh secret
-- is stored if there is none, or to rotate.

local list = cjson.decode(redis.call('GET', P) or '[]')
local kept = {}
for _, secret in ipairs(list) do
  if not secret.expires_at or secret.expires_at > NOW then
    kept[#kept + 1] = secret
  end
end
if #kept == 0 or ARGV[4] == '1' then
  local fresh = { { value = ARGV[3], created_at = NOW } }
  if kept[1] then
    kept[1].expires_at = NOW + tonumber(ARGV[5])
    fresh[2] = kept[1]
  end
  kept = fresh
  redis.call('SET', P, cjson.encode(kept))
end
return cjson.encode(kept)
