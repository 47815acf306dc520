-- Extends leases. ARGV: lease_s, then id and attempt of each. Answers 0 for each void lease: fenced
-- off, ended, or past the deadline.

regardless()
local lease_s, kept = tonumber(ARGV[3]), {}
for i = 4, #ARGV, 2 do
  local job = load(ARGV[i])
  local holds = fenced(job, ARGV[i + 1]) and left(tonumber(job.deadline)) > 0
  if holds then
    lease(job.id, lease_s)
  end
  kept[#kept + 1] = holds and 1 or 0
end
return kept
