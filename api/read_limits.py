"""How many event streams and held requests one API key may have at once, and how often it may read.

Callers without a key are counted by their address. The limits hold in each API process separately.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from contracts.errors import QuotaExceeded
from contracts.ports.clock import Clock
from runtime.lru import LruCache
from telemetry import metrics

BUSY_S: Final = 5.0
"""When a refused client may come again, in seconds. Streams and waits end at no known time."""
MAX_REMEMBERED: Final = 10_000
"""How many holders are remembered."""
BURST_S: Final = 10.0
"""The reads of this many seconds may come at once."""
MAX_WAIT_S: Final = 60.0
"""The longest time after which a refused read is told to come again, in seconds."""


class Shares:
    """Counts how many things of one kind each holder has: at most `total` in all, and `each` for
    one holder. `limit` is the kind's name."""

    def __init__(self, limit: str, total: int, each: int) -> None:
        self._limit = limit
        self._total = total
        self._each = each
        self._held: Counter[str] = Counter()
        self._all = 0

    @property
    def full(self) -> bool:
        """Whether all holders together have as many as are allowed."""
        return self._all >= self._total

    def has_room(self, holder: str) -> bool:
        """Whether `holder` has fewer than it may have. The total is not checked."""
        return self._held.get(holder, 0) < self._each

    def allows(self, holder: str) -> bool:
        """As `has_room`, and counts a refusal in the metrics."""
        if self.has_room(holder):
            return True
        metrics.READS_REFUSED.labels(self._limit).inc()
        return False

    @contextmanager
    def one(self, holder: str) -> Iterator[None]:
        """Count one more of `holder` while the block runs."""
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
    """Limits the reads of each holder: `per_minute` on average, with bursts (GCRA, as for submits).
    None: no limit.

    Each refused read gets a different time to come again. With the same time, a thousand clients of
    one key would all come again in the same second.
    """

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        self._gap_s = None if per_minute is None else 60.0 / per_minute
        self._clock = clock
        self._due = LruCache[str, float](MAX_REMEMBERED)
        self._retry_at = LruCache[str, float](MAX_REMEMBERED)

    def charge(self, holder: str) -> None:
        """Charge `holder` for one read. Raises `QuotaExceeded`."""
        if self._gap_s is None:
            return
        now = self._clock.monotonic()
        due = max(now, self._due.get(holder) or now)
        wait_s = due - now - max(BURST_S, self._gap_s) + self._gap_s
        if wait_s > 1e-9:
            metrics.READS_REFUSED.labels("reads_per_minute").inc()
            wait_s = max(wait_s, min((self._retry_at.get(holder) or now) + self._gap_s - now, MAX_WAIT_S))
            self._retry_at[holder] = now + wait_s
            raise too_many("reads_per_minute", "Too many reads: use Prefer: wait or an event stream.", wait_s)
        self._due[holder] = due + self._gap_s


def too_many(limit: str, message: str, retry_after_s: float = BUSY_S) -> QuotaExceeded:
    """The error for a request over one of these limits. `limit` is its name in `details.limit`."""
    return QuotaExceeded(message, details={"limit": limit}, retry_after_s=retry_after_s)
