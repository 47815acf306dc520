"""The fair clock of the simulation: start-time fair queueing without a store, as `store/lua/ticket.lua` does it in Redis.

`tests/store/test_fair_clock.py` holds the store to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class FairClock:
    """The virtual time of one model's queue, and the finish tag of every flow that is ahead of it. Pure state."""

    now: float = 0.0
    finish: dict[str, float] = field(default_factory=dict)

    def ticket(self, flow: str, cost: float, weight: float) -> float:
        """The start tag of a job of `cost` that the flow brings now."""
        tag = max(self.now, self.finish.get(flow, 0.0))
        self.finish = {name: end for name, end in self.finish.items() if end > self.now}
        self.finish[flow] = tag + cost / weight
        return tag

    def served(self, tag: float) -> None:
        """A job with this tag has been taken: virtual time is at least that far."""
        self.now = max(self.now, tag)
