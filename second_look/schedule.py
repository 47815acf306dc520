"""When the endpoint is called again. Pure; time and chance are arguments."""

from __future__ import annotations

from typing import Final

from duties.backoff import varied
from moderation.policy_second_look import SecondLookRules

FIRST_S: Final = 2.0
"""The wait after the first attempt, in seconds. It doubles with each further one."""
LONGEST_S: Final = 60.0


def next_attempt_s(
    attempt: int,
    rules: SecondLookRules,
    *,
    age_s: float,
    chance: float,
    retry_after_s: float | None = None,
) -> float | None:
    """Seconds until the next attempt; None: there is none, and people decide.

    Attempt number `attempt` (1 is the first) has failed, `age_s` seconds after the image was held. An
    endpoint's `Retry-After` is a lower bound. No attempt begins after the deadline.
    """
    if attempt >= rules.attempts:
        return None
    delay_s = varied(min(FIRST_S * 2.0 ** (attempt - 1), LONGEST_S), chance)
    delay_s = max(delay_s, retry_after_s or 0.0)
    return delay_s if age_s + delay_s <= rules.deadline_s else None
