"""The batches that the engine has not answered yet: when they end, and when the next one is due.

There are no threads, waits or locks here: `worker.device` has them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from contracts.ports.clock import Clock
from scheduler import handover
from scheduler.prefetch import FetchLatency
from worker.active_images import ActiveImages, Chosen
from worker.engine.messages import Answer, Done
from worker.images import Flight

IN_FLIGHT: Final = 2
"""The most batches that the engine has: one runs, and the next one waits."""


class Flights:
    """Batches in flight, oldest first. The engine runs the first. Not thread-safe."""

    def __init__(self, active: ActiveImages, clock: Clock) -> None:
        self._active = active
        self._clock = clock
        self._flights: deque[Flight] = deque()
        self.fetch_latency = FetchLatency()
        self.steady = True
        """Whether the last batch ran.

        After a failed batch nothing is handed over before its images are settled.
        """

    def __bool__(self) -> bool:
        return bool(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(self._flights)

    @property
    def first(self) -> Flight:
        """The batch that runs. Raises `IndexError` if there is none."""
        return self._flights[0]

    def take(self, chosen: Chosen) -> Flight:
        """Begin the chosen batch, which the caller sends to the engine now."""
        flight = self._active.take(chosen.images, chosen.seconds)
        flight.begins_at = self._clock.monotonic()
        self._flights.append(flight)
        return flight

    def landed(self, flight: Flight, answer: Answer | None) -> None:
        """Remove a batch that the engine has answered, or never will (None).

        The next batch, if any, begins now.
        """
        if flight not in self._flights:
            return
        self._flights.remove(flight)
        self.steady = isinstance(answer, Done)
        for image in flight.images:
            image.batches_in_flight -= 1
        for later in self._flights:
            later.begins_at = self._clock.monotonic()

    def next_begins_at(self) -> float:
        """When a batch that is handed over now would begin, by the monotonic clock."""
        now = self._clock.monotonic()
        return max(now, self._end_at()) if self._flights else now

    def fetch_due_in_s(self) -> float:
        """See `Batcher.fetch_due_in_s`."""
        if not self._flights:
            return 0.0
        last = self._flights[-1]
        early_s = self.fetch_latency.seconds(last.seconds) + self._moment_s(last)
        return max(0.0, self._end_at() - early_s - self._clock.monotonic())

    def due_in_s(self, *, coming: bool) -> float | None:
        """Seconds until the next batch is to be handed over.

        None: not before the active images change, or the batch that runs ends. `coming` says whether
        more images were taken from the store and are not added yet.
        """
        running = self.first
        if len(self._flights) == IN_FLIGHT or not self.steady or not running.seconds:
            return None
        moment_s = self._moment_s(running)
        return handover.due_in_s(
            self._clock.monotonic(),
            self._end_at(),
            full=self._active.full(),
            coming=coming,
            lead_s=self.fetch_latency.seconds(running.seconds) + moment_s,
            moment_s=moment_s,
        )

    def _end_at(self) -> float:
        """When all batches should have ended.

        A batch that takes longer than expected counts as ending now.
        """
        first, *later = self._flights
        ends_at = first.begins_at + first.seconds
        if not later:
            return ends_at
        return max(ends_at, self._clock.monotonic()) + sum(flight.seconds for flight in later)

    def _moment_s(self, flight: Flight) -> float:
        return handover.last_moment_s(self._active.cost.deviation_s(flight.batch.key))
