"""When to call again, and how many at once. Pure decisions; time and chance come in as arguments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from contracts.webhooks import DeliveryStatus

HORIZON_S: Final = 3 * 86_400.0
JITTER: Final = 0.1
MAX_RETRY_AFTER_S: Final = 86_400.0
GONE: Final = 410


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from an attempt. `next_in_s` only with `PENDING`."""

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

    Only 2xx is success (Standard Webhooks); 3xx is a failure like any other. 410 disables. `refused`: the address is one
    that we do not call, and never will. `chance` in [0, 1) spreads the delay by a tenth either way. A receiver's
    `Retry-After` is a lower bound. What would come after three days lapses.
    """
    if status_code is not None and 200 <= status_code < 300:
        return Verdict(DeliveryStatus.DELIVERED)
    if status_code == GONE:
        return Verdict(DeliveryStatus.DISABLED)
    if refused or attempt > len(delays_s):
        return Verdict(DeliveryStatus.FAILED)
    delay_s = delays_s[attempt - 1] * (1 - JITTER + 2 * JITTER * chance)
    delay_s = max(delay_s, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))
    if age_s + delay_s > HORIZON_S:
        return Verdict(DeliveryStatus.FAILED)
    return Verdict(DeliveryStatus.PENDING, delay_s)


def retry_after_s(header: str | None) -> float | None:
    """The seconds of a `Retry-After`; None without one, and for its other form, a date: we need not obey."""
    if header is None or not (header.isascii() and header.isdigit()):
        return None
    return MAX_RETRY_AFTER_S if len(header) > 6 else float(header)


@dataclass(slots=True)
class _Receiver:
    now: int = 0
    seconds: float = 0.05
    free_at: float = 0.0


@dataclass(slots=True)
class Pacer:
    """At most `limit` calls at once to one receiver. Those beyond are given a time each, as far apart as the receiver is
    slow, so that a backlog of any length costs one deferral each and not many. Pure state; not for several threads."""

    limit: int
    _receivers: dict[str, _Receiver] = field(default_factory=lambda: defaultdict(_Receiver))

    def enter(self, receiver: str, now: float) -> float | None:
        """None: go on, and `leave` afterwards. Otherwise the seconds after which to try again."""
        found = self._receivers[receiver]
        if found.now < self.limit:
            found.now += 1
            return None
        found.free_at = max(now, found.free_at) + found.seconds / self.limit
        return max(0.05, found.free_at - now)

    def leave(self, receiver: str, took_s: float | None = None) -> None:
        """After an `enter` that went on; `took_s`: how long the call took, if it was made."""
        found = self._receivers[receiver]
        found.now -= 1
        if took_s is not None:
            found.seconds += 0.2 * (took_s - found.seconds)
        if not found.now:
            del self._receivers[receiver]
