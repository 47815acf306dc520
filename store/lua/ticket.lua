-- Takes the next place of a flow in the fair order, where `submit.lua` cannot reach the model's
-- fair clock. KEYS[1] is the prefix of the clock, `darkroom:{fair:<model>}:`. ARGV: model, flow,
-- cost over weight. Answers the start tag.

local turn = next_turn(ARGV[3], ARGV[4], true)
take_turn(turn, ARGV[4], tonumber(ARGV[5]))
return precise(turn.tag)
