"""When an endpoint that failed is called again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from duties.backoff import JITTER
from moderation.policy_second_look import SecondLookRules
from second_look.schedule import LONGEST_S, next_attempt_s

RULES = SecondLookRules(url="http://vlm/v1", model="m", attempts=20, deadline_s=10_000)


def test_waits_double_up_to_a_minute() -> None:
    waits = [next_attempt_s(attempt, RULES, age_s=0.0, chance=0.5) for attempt in range(1, 9)]
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


@given(
    attempt=st.integers(1, 30),
    age_s=st.floats(0, 20_000),
    chance=st.floats(0, 1, exclude_max=True),
    asked_s=st.none() | st.floats(0, 90_000),
)
def test_no_attempt_is_beyond_the_limits(
    attempt: int, age_s: float, chance: float, asked_s: float | None
) -> None:
    wait_s = next_attempt_s(attempt, RULES, age_s=age_s, chance=chance, retry_after_s=asked_s)
    if wait_s is None:
        longest_s = max(LONGEST_S * (1 + JITTER), asked_s or 0.0)
        assert attempt >= RULES.attempts or age_s + longest_s > RULES.deadline_s
        return
    assert attempt < RULES.attempts
    assert age_s + wait_s <= RULES.deadline_s
    assert wait_s >= max(asked_s or 0.0, 2.0 * (1 - JITTER))
