-- Names and facts of pictures that have any of the terms: those that have all of them first, then those that have all but the
-- most common, and so on; the newest first.
-- KEYS[1]: the prefix of the scope's keys. ARGV: how many are enough, how many of one term are looked at, and the terms, the
-- rarest first.
local base, enough, looked = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local found, seen = {}, {}

local function take(name)
  if not seen[name] and #found < enough then
    seen[name] = true
    found[#found + 1] = name
  end
end

local function newest(term)
  return redis.call('ZRANGE', base .. 'word:' .. term, '+inf', '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, looked)
end

local rarest = newest(ARGV[3])
local depth = {}
for i = 1, #rarest do depth[i] = 1 end
for t = 4, #ARGV do
  -- How many of the rarest terms each picture has without a gap.
  local names, at = {}, {}
  for i, name in ipairs(rarest) do
    if depth[i] == t - 3 then names[#names + 1] = name; at[#at + 1] = i end
  end
  for first = 1, #names, 1000 do
    local last = math.min(first + 999, #names)
    local scores = redis.call('ZMSCORE', base .. 'word:' .. ARGV[t], unpack(names, first, last))
    for i, score in ipairs(scores) do
      if score then depth[at[first + i - 1]] = t - 2 end
    end
  end
end
for level = #ARGV - 2, 1, -1 do
  for i, name in ipairs(rarest) do
    if depth[i] == level then take(name) end
  end
end
for t = 4, #ARGV do
  if #found >= enough then break end
  for _, name in ipairs(newest(ARGV[t])) do take(name) end
end
local answer = {}
for first = 1, #found, 1000 do
  local last = math.min(first + 999, #found)
  for i, facts in ipairs(redis.call('HMGET', base .. 'facts', unpack(found, first, last))) do
    answer[#answer + 1] = found[first + i - 1]
    answer[#answer + 1] = facts
  end
end
return answer
