-- Ends a job with a failure. ARGV: id, attempt, failure. Answers {applied, promoted}.

regardless()
local id, attempt, failure = ARGV[3], ARGV[4], ARGV[5]
if not fenced(id, attempt) then
  return { 0, {} }
end
finish(id, 'failed', 'failure', failure)
return { 1, parts(hand_over(id, failure)) }
