"""When to call a receiver again, and how many calls it gets at once. Pure; time and chance are arguments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from contracts.webhooks import DeliveryStatus
from duties.backoff import MAX_RETRY_AFTER_S, varied

HORIZON_S: Final = 3 * 86_400.0
"""Attempts end this many seconds after the job has ended."""
GONE: Final = 410
"""The HTTP status that disables a receiver."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from an attempt. `next_in_s` (seconds until the next one) is set only with `PENDING`."""

    status: DeliveryStatus
    next_in_s: float | None = None


def after(
    attempt: int,
    status_code: int | None,
    *,
    age_s: float,
    delays_s: Sequence[float],
    chance: float,
    retry_after_s: float | None = None,
    refused: bool = False,
) -> Verdict:
    """The verdict on attempt number `attempt` (1 is the first), made `age_s` seconds after the job ended.

    Only 2xx is success (Standard Webhooks); 3xx is a failure like any other. 410 disables the receiver.
    `status_code` None: there was no answer. `refused`: we never call this address. `chance` in [0, 1)
    varies the delay by a tenth either way. A receiver's `Retry-After` is a lower bound. There is no
    attempt later than three days after the job's end.
    """
    if status_code is not None and 200 <= status_code < 300:
        return Verdict(DeliveryStatus.DELIVERED)
    if status_code == GONE:
        return Verdict(DeliveryStatus.DISABLED)
    if refused or attempt > len(delays_s):
        return Verdict(DeliveryStatus.FAILED)
    delay_s = varied(delays_s[attempt - 1], chance)
    delay_s = max(delay_s, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))
    if age_s + delay_s > HORIZON_S:
        return Verdict(DeliveryStatus.FAILED)
    return Verdict(DeliveryStatus.PENDING, delay_s)


@dataclass(slots=True)
class _Receiver:
    now: int = 0
    seconds: float = 0.05
    free_at: float = 0.0


@dataclass(slots=True)
class Pacer:
    """Allows at most `limit` calls at once to one receiver.

    Each call beyond the limit gets its own later time. The times are as far apart as the receiver is
    slow. A call in a backlog is therefore deferred once, not many times. Pure state; not thread-safe.
    """

    limit: int
    _receivers: dict[str, _Receiver] = field(default_factory=lambda: defaultdict(_Receiver))

    def enter(self, receiver: str, now: float) -> float | None:
        """Ask for a call at the time `now`.

        None: make it, and `leave` afterwards. Else: try again in so many seconds.
        """
        state = self._receivers[receiver]
        if state.now < self.limit:
            state.now += 1
            return None
        state.free_at = max(now, state.free_at) + state.seconds / self.limit
        return max(0.05, state.free_at - now)

    def leave(self, receiver: str, took_s: float | None = None) -> None:
        """The call that `enter` allowed is over. It took `took_s` seconds (None: it was not made)."""
        state = self._receivers[receiver]
        state.now -= 1
        if took_s is not None:
            state.seconds += 0.2 * (took_s - state.seconds)
        if not state.now:
            del self._receivers[receiver]
