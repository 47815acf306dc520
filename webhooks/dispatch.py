"""From the outbox to the queue: each call that is due becomes a message.

An event triggers this at once, else the next tick does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from contracts.errors import UnavailableError
from contracts.ports.webhook_store import WebhookStore
from contracts.webhooks import Call
from runtime.tasks import end
from telemetry import metrics
from telemetry.logs import get_logger

BATCH: Final = 100
"""Most calls that are taken from the outbox at once."""
TICK_S: Final = 1.0
"""Seconds between two looks at all shards."""
TAKEN_S: Final = 60.0
"""A call on the queue that has not begun after this many seconds is put there again."""

log = get_logger(__name__)

Enqueue = Callable[[Sequence[Call]], Awaitable[None]]
"""Puts calls on the queue. Raises `BrokerUnavailable`; calls that are not on the queue fall due again."""


class Dispatcher:
    """Puts due calls on the queue.

    Every webhook process runs one; the store gives each due call to one of them.
    """

    def __init__(self, store: WebhookStore, enqueue: Enqueue) -> None:
        self._store = store
        self._enqueue = enqueue
        self._shards: set[str] = set(store.shards)
        self._woken = asyncio.Event()

    async def tick(self, shards: Sequence[str] | None = None) -> int:
        """Enqueue the calls that are due on `shards` (None: all), and return how many.

        Raises `UnavailableError`.
        """
        moved = 0
        for shard in self._store.shards if shards is None else shards:
            while calls := await self._store.take(shard, BATCH, TAKEN_S):
                await self._enqueue(calls)
                moved += len(calls)
                if len(calls) < BATCH:
                    break
        return moved

    async def run(self) -> None:
        """Dispatch until cancelled."""
        listening = asyncio.create_task(self._listen(), name="webhook wakes")
        try:
            while True:
                shards, self._shards = sorted(self._shards), set()
                self._woken.clear()
                try:
                    await self.tick(shards)
                except UnavailableError as error:
                    metrics.REPAIRED.labels("webhook_dispatch").inc()
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
            self._shards = set(self._store.shards)
            try:
                metrics.WEBHOOKS_DUE.set(await self._store.due())
            except UnavailableError:
                metrics.REPAIRED.labels("webhook_dispatch").inc()

    async def _listen(self) -> None:
        while True:
            async for shard in self._store.wakes():
                self._shards.add(shard)
                self._woken.set()
            await asyncio.sleep(TICK_S)
