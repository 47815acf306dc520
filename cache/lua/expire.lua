-- Ends a claimed job that its worker cannot finish in time. ARGV: id, attempt. Answers {applied, promoted}.

regardless()
local id, attempt = ARGV[3], ARGV[4]
if not fenced(id, attempt) then
  return { 0, {} }
end
finish(id, 'expired')
return { 1, parts(hand_over(id)) }
