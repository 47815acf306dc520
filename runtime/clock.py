"""The only place that reads the machine's clocks. Everything else takes a `Clock` as an argument."""

from __future__ import annotations

import time


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """The system time, in Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """The monotonic clock, in seconds."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only by `advance`. For tests and simulations."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start

    def now(self) -> float:
        """The current manual time, in Unix seconds."""
        return self._now

    def monotonic(self) -> float:
        """The same manual time, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward by `seconds`."""
        self._now += seconds
