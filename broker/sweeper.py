"""The sweeper: expires jobs, republishes stuck ones, fails dead letters and prunes old images.

Every API process has a sweeper. One of them is active at a time, under a lease in the job store. If its
process dies, another one takes over within `LEASE_S` seconds.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from broker.fail_dead_letters import fail_dead_letters
from broker.relay import publish_all
from contracts.errors import UnavailableError
from contracts.ports.blob_store import BlobStore
from contracts.ports.clock import Clock
from contracts.ports.dead_letters import DeadLetters
from contracts.ports.job_store import JobStore
from contracts.ports.publisher import Publisher
from contracts.settings import BackendSettings
from runtime.tasks import end
from telemetry import metrics
from telemetry.logs import get_logger

BATCH: Final = 100
"""Jobs of one kind per shard and tick, which bounds the work of a tick."""
LEASE_S: Final = 3.0
PROMPT_S: Final = 1.0
"""A call that took longer than this does not show the store's clock precisely enough."""
DEAD_EVERY_S: Final = 2.0
BLOBS_EVERY_S: Final = 600.0

log = get_logger(__name__)


class Sweeper:
    """Sweeps every `interval_s` seconds while it holds the lease.

    Without `letters` it handles no dead letters.
    """

    def __init__(
        self,
        jobs: JobStore,
        blobs: BlobStore,
        publisher: Publisher,
        letters: DeadLetters | None,
        settings: BackendSettings,
        clock: Clock,
        interval_s: float,
    ) -> None:
        self._name = secrets.token_hex(8)
        self._jobs = jobs
        self._blobs = blobs
        self._publisher = publisher
        self._letters = letters
        self._settings = settings
        self._clock = clock
        self._interval_s = interval_s
        self._due: dict[str, float] = {}
        self._swept: dict[str, float] = {}
        """When each shard was last swept, on our monotonic clock; only where that time is precise."""
        self._pruning: asyncio.Task[None] | None = None

    async def tick(self) -> bool:
        """Sweep everything once. Returns whether this process holds the lease.

        Raises `StoreUnavailable` and `BrokerUnavailable`.
        """
        if not await self._jobs.take_sweeper_lease(self._name, LEASE_S):
            self._swept.clear()
            if self._letters is not None:
                await self._letters.release()
            return False
        steps_s: set[float] = set()
        for shard in self._jobs.shards:
            steps_s.add(await self._steady(shard))
            stale, promoted = await self._jobs.sweep(shard, BATCH)
            await publish_all(self._jobs, self._publisher, stale, "stale")
            await publish_all(self._jobs, self._publisher, promoted, "promoted")
        if step_s := max(steps_s, key=abs):
            metrics.REPAIRED.labels("clock_step").inc()
            log.warning("clock_stepped", seconds=round(step_s, 3))
        if self._letters is not None and self._is_due("dead letters", DEAD_EVERY_S):
            await fail_dead_letters(self._jobs, self._publisher, self._letters)
        if self._is_due("blobs", BLOBS_EVERY_S) and (self._pruning is None or self._pruning.done()):
            self._pruning = asyncio.create_task(self._prune(), name="prune")
        return True

    async def _steady(self, shard: str) -> float:
        """By how many seconds the store's clock was set since the last sweep of the shard."""
        begun = self._clock.monotonic()
        last = self._swept.pop(shard, None)
        step_s = await self._jobs.steady(shard, None if last is None else begun - last)
        if self._clock.monotonic() - begun < PROMPT_S:
            self._swept[shard] = begun
            return step_s
        return 0.0

    async def _prune(self) -> None:
        """Delete old images until none is left, beside the ticks: it visits every image."""
        try:
            while pruned := await self._blobs.prune(
                self._settings.blob_retention_s, self._settings.blob_max_bytes
            ):
                metrics.BLOBS_PRUNED.inc(pruned)
        except UnavailableError as error:
            metrics.REPAIRED.labels("prune").inc()
            log.warning("prune_failed", code=error.code)

    async def run(self) -> None:
        """Tick for ever. After an error the next tick tries again."""
        while True:
            try:
                await self.tick()
            except UnavailableError as error:
                metrics.REPAIRED.labels("sweep").inc()
                log.warning("sweep_failed", code=error.code)
            except Exception as error:  # noqa: BLE001 - an unexpected error must not stop the sweeper
                metrics.REPAIRED.labels("sweep").inc()
                log.error("sweep_crashed", error=type(error).__name__)
            await asyncio.sleep(self._interval_s)

    async def close(self) -> None:
        """Stop pruning and close the dead letters. Call it after `run` was canceled."""
        if self._pruning is not None:
            await end(self._pruning)
        if self._letters is not None:
            await self._letters.close()

    def _is_due(self, chore: str, every_s: float) -> bool:
        now = self._clock.monotonic()
        if now < self._due.get(chore, now):
            return False
        self._due[chore] = now + every_s
        return True
