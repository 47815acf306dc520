"""The port of time. `runtime.clock` has the machine's clocks and the manual one."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Time as an argument: the machine's clocks in production, a manual clock in tests."""

    def now(self) -> float:
        """Seconds since the Unix epoch, for timestamps that people and other machines read."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step backwards, for durations."""
        ...
