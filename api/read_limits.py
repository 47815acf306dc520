"""What one key may have at once: event streams and held requests in this process, and how often it may read.

Without keys everybody has an account by address. In this process alone: a platform of several processes allows so much in each.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from contracts.clock import Clock
from contracts.errors import QuotaExceeded
from telemetry import metrics

BUSY_S: Final = 5.0
"""When one that was refused may come again: streams and waits end at no known time."""
MAX_REMEMBERED: Final = 10_000
BURST_S: Final = 10.0
"""So many seconds' worth of reads may come at once."""
MAX_WAIT_S: Final = 60.0
"""A read that is refused is told to come again within this."""


class Shares:
    """How many things of one kind each holder has; at most `total` in all and `each` of one holder."""

    def __init__(self, limit: str, total: int, each: int) -> None:
        self._limit = limit
        self._total = total
        self._each = each
        self._held: Counter[str] = Counter()
        self._all = 0

    @property
    def full(self) -> bool:
        return self._all >= self._total

    def has_room(self, holder: str) -> bool:
        """Whether `holder` has fewer than it may, the total aside."""
        return self._held.get(holder, 0) < self._each

    def allows(self, holder: str) -> bool:
        """As `has_room`; a refusal is counted."""
        if self.has_room(holder):
            return True
        metrics.READS_REFUSED.labels(self._limit).inc()
        return False

    @contextmanager
    def one(self, holder: str) -> Iterator[None]:
        """One more of `holder`, for as long as the block runs."""
        self._held[holder] += 1
        self._all += 1
        try:
            yield
        finally:
            self._all -= 1
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]


class ReadRate:
    """Reads of each holder: `per_minute` on average, some at once (GCRA, as `scheduler` has it for submits); None: no limit.

    Each that is refused is told a time of its own. Told the same, a thousand clients of one key would all come again within the
    second, and again.
    """

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        self._gap_s = None if per_minute is None else 60.0 / per_minute
        self._clock = clock
        self._due: OrderedDict[str, float] = OrderedDict()
        self._told: OrderedDict[str, float] = OrderedDict()

    def charge(self, holder: str) -> None:
        """One read. Raises `QuotaExceeded`."""
        if self._gap_s is None:
            return
        now = self._clock.monotonic()
        due = max(now, self._due.get(holder, now))
        wait_s = due - now - max(BURST_S, self._gap_s) + self._gap_s
        if wait_s > 1e-9:
            metrics.READS_REFUSED.labels("reads_per_minute").inc()
            wait_s = max(wait_s, min(self._told.get(holder, now) + self._gap_s - now, MAX_WAIT_S))
            _remember(self._told, holder, now + wait_s)
            raise too_many("reads_per_minute", "Too many reads: use Prefer: wait or an event stream.", wait_s)
        _remember(self._due, holder, due + self._gap_s)


def _remember(times: OrderedDict[str, float], holder: str, at: float) -> None:
    times[holder] = at
    times.move_to_end(holder)
    if len(times) > MAX_REMEMBERED:
        times.popitem(last=False)


def too_many(limit: str, message: str, retry_after_s: float = BUSY_S) -> QuotaExceeded:
    """The refusal for one of these limits."""
    return QuotaExceeded(message, details={"limit": limit}, retry_after_s=retry_after_s)
