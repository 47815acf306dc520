"""From the outbox to the queue: what is due becomes a message, at once where an event tells of it, else at the next tick."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from contracts.errors import UnavailableError
from contracts.tasks import end
from contracts.webhooks import Call, WebhookStore
from telemetry import metrics
from telemetry.logs import get_logger

BATCH: Final = 100
TICK_S: Final = 1.0
TAKEN_S: Final = 60.0
"""A call that was put on the queue and has not been begun by then is put there again."""

log = get_logger(__name__)

Enqueue = Callable[[Sequence[Call]], Awaitable[None]]
"""Puts calls on the queue. Raises `BrokerUnavailable`; what was not put there falls due again by itself."""


class Dispatcher:
    """Every webhook process runs one; the store hands each due call to one of them. `run` until cancelled."""

    def __init__(self, store: WebhookStore, enqueue: Enqueue) -> None:
        self._store = store
        self._enqueue = enqueue
        self._shards: set[str] = set(store.shards)
        self._woken = asyncio.Event()

    async def tick(self, shards: Sequence[str] | None = None) -> int:
        """Enqueues what is due on `shards`, by default all; answers how many. Raises `UnavailableError`."""
        moved = 0
        for shard in self._store.shards if shards is None else shards:
            while calls := await self._store.take(shard, BATCH, TAKEN_S):
                await self._enqueue(calls)
                moved += len(calls)
                if len(calls) < BATCH:
                    break
        return moved

    async def run(self) -> None:
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
        """Until an event, or the tick that looks at everything."""
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
