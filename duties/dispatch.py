"""From the outbox to the queue: each duty that is due becomes a message.

An event triggers this at once, else the next tick does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from prometheus_client import Gauge

from contracts.errors import UnavailableError
from runtime.tasks import end
from telemetry import metrics
from telemetry.logs import get_logger

BATCH: Final = 100
"""Most duties that are taken from the outbox at once."""
TICK_S: Final = 1.0
"""Seconds between two looks at all shards."""
TAKEN_S: Final = 60.0
"""A duty on the queue that has not begun after this many seconds is put there again."""

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

log = get_logger(__name__)

Enqueue = Callable[[Sequence[T]], Awaitable[None]]
"""Puts duties on the queue. Raises `BrokerUnavailable`; duties that are not on the queue fall due again."""


class Outbox(Protocol[T_co]):
    """Duties in the store. Each is due at a time. Every method raises `UnavailableError`."""

    @property
    def shards(self) -> Sequence[str]:
        """The shards of the store."""
        ...

    async def take(self, shard: str, limit: int, lease_s: float) -> Sequence[T_co]:
        """Up to `limit` duties of the shard that are due. They are due again after `lease_s` seconds."""
        ...

    async def due(self) -> int:
        """How many duties are due now and not taken."""
        ...

    def wakes(self) -> AsyncIterator[str]:
        """Shards on which a duty has just become due, until the connection is lost."""
        ...


class Dispatcher(Generic[T]):
    """Puts due duties on the queue.

    Every process of a kind runs one; the store gives each due duty to one of them. `name` is that of
    the repairs that are counted. `gauge` shows how many duties are due.
    """

    def __init__(self, outbox: Outbox[T], enqueue: Enqueue[T], name: str, gauge: Gauge) -> None:
        self._outbox = outbox
        self._enqueue = enqueue
        self._name = name
        self._gauge = gauge
        self._shards: set[str] = set(outbox.shards)
        self._woken = asyncio.Event()

    async def tick(self, shards: Sequence[str] | None = None) -> int:
        """Enqueue the duties that are due on `shards` (None: all), and return how many.

        Raises `UnavailableError`.
        """
        moved = 0
        for shard in self._outbox.shards if shards is None else shards:
            while duties := await self._outbox.take(shard, BATCH, TAKEN_S):
                await self._enqueue(duties)
                moved += len(duties)
                if len(duties) < BATCH:
                    break
        return moved

    async def run(self) -> None:
        """Dispatch until cancelled."""
        listening = asyncio.create_task(self._listen(), name=f"{self._name} wakes")
        try:
            while True:
                shards, self._shards = sorted(self._shards), set()
                self._woken.clear()
                try:
                    await self.tick(shards)
                except UnavailableError as error:
                    metrics.REPAIRED.labels(self._name).inc()
                    log.warning("dispatch_failed", code=error.code)
                    await asyncio.sleep(TICK_S)
                await self._next()
        finally:
            await end(listening)

    async def _next(self) -> None:
        """Wait for an event, or for the tick that looks at all shards."""
        try:
            async with asyncio.timeout(TICK_S):
                await self._woken.wait()
        except TimeoutError:
            self._shards = set(self._outbox.shards)
            try:
                self._gauge.set(await self._outbox.due())
            except UnavailableError:
                metrics.REPAIRED.labels(self._name).inc()

    async def _listen(self) -> None:
        while True:
            async for shard in self._outbox.wakes():
                self._shards.add(shard)
                self._woken.set()
            await asyncio.sleep(TICK_S)
