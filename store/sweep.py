"""The work of one process for the whole store, once a second: overdue jobs, stale messages, and a
clock that was set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from contracts.jobs import JobMessage
from contracts.ports.clock import Clock
from store.key_names import HOUSE, Layout
from store.layout import SCHEMA, LayoutGuard
from store.records import messages_of, paired
from store.scripts import Scripts

STALE_S: Final = 5.0
"""A leader whose message has not been confirmed for this long is published again."""
PROMPT_S: Final = 1.0
"""A call that took longer does not show the store's clock: the store may have run it late."""


class Housekeeping:
    """The sweeper's part of `contracts.ports.job_store.JobStore`. `lease_s` is how long the leases of
    jobs last, in seconds."""

    def __init__(
        self, scripts: Scripts, layout: Layout, guard: LayoutGuard, clock: Clock, lease_s: float
    ) -> None:
        self._scripts = scripts
        self._layout = layout
        self._guard = guard
        self._clock = clock
        self._lease_s = lease_s
        self._elected = False
        self._marks: dict[str, str] = {}
        """The mark that our last sweep of each shard left, by the store's clock."""

    async def take_sweeper_lease(self, name: str, lease_s: float) -> bool:
        """Whether the process `name` holds the sweeper lease for `lease_s` seconds from now. Raises
        `StoreUnavailable`, also where the layout has changed."""
        layout = (self._guard.document, self._layout.number, SCHEMA)
        elected = await self._scripts.run("elect", HOUSE, name, lease_s, *layout)
        if elected < 0:
            raise self._guard.changed()
        if elected and not self._elected:
            await self._guard.again()
        self._elected = bool(elected)
        return self._elected

    async def sweep(self, shard: str, limit: int) -> tuple[Sequence[JobMessage], Sequence[JobMessage]]:
        """End overdue jobs, at most `limit`. Answers the stale and the promoted messages: publish
        both. Raises `StoreUnavailable`."""
        prefix = self._layout.prefix(shard)
        stale, promoted = await self._scripts.run("sweep", prefix, limit, STALE_S, self._lease_s)
        return messages_of(map(paired, stale)), messages_of(map(paired, promoted))

    async def steady(self, shard: str, elapsed_s: float | None) -> float:
        """Move the shard's deadlines if the store's clock was set since the last call. Answers by
        how many seconds. Raises `StoreUnavailable`.

        `elapsed_s` are the seconds since the last call, by a clock that is never set; None:
        unknown.
        """
        shard, prefix = self._layout.name(shard), self._layout.prefix(shard)
        begun, mark = self._clock.monotonic(), self._marks.pop(shard, "")
        arguments = ("" if elapsed_s is None else elapsed_s, mark, self._lease_s)
        step_s, now = await self._scripts.run("steady", prefix, *arguments, "")
        if float(step_s):
            if self._clock.monotonic() - begun >= PROMPT_S:
                return 0.0
            step_s, now = await self._scripts.run("steady", prefix, *arguments, now)
        self._marks[shard] = now
        return float(step_s)
