-- Extends a lease. ARGV: id, attempt, lease_s. Answers 0 where it is void: fenced off, ended, or past its deadline.

regardless()
local id, attempt, lease_s = ARGV[3], ARGV[4], tonumber(ARGV[5])
if not fenced(id, attempt) or left(tonumber(field(id, 'deadline'))) <= 0 then
  return 0
end
lease(id, lease_s)
return 1
