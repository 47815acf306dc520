"""Announces to the API, at an interval, that this worker serves its model, and how fast."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from contracts.errors import StoreFull, StoreUnavailable
from contracts.models import ModelSpec, WorkerInfo
from contracts.ports.model_directory import ModelDirectory
from telemetry import metrics
from telemetry.logs import get_logger
from worker.batcher import Batcher
from worker.job_fetcher import JobFetcher

MAX_BROKEN: Final = 3
"""Announcements in a row that may fail in our own code. Then the worker ends."""

log = get_logger(__name__)


class Heartbeat:
    """Announces the worker every `every_s` seconds.

    It begins with `begin`, because a worker that is not connected to the broker cannot serve.
    """

    def __init__(
        self,
        models: ModelDirectory,
        spec: ModelSpec,
        info: WorkerInfo,
        batcher: Batcher,
        fetcher: JobFetcher,
        every_s: float,
        policy: Callable[[], str] = str,
    ) -> None:
        """`policy` answers the policy in force, as `name@version`."""
        self._models = models
        self._spec = spec
        self._info = info
        self._batcher = batcher
        self._fetcher = fetcher
        self._every_s = every_s
        self._policy = policy
        self._begun = asyncio.Event()

    def begin(self) -> None:
        """Begin to announce.

        Called after every connect to the broker; a second call does nothing.
        """
        self._begun.set()

    async def run(self) -> None:
        """Announce for ever. Raises what our own code raises `MAX_BROKEN` times in a row.

        A worker that cannot announce itself is of no use.
        """
        await self._begun.wait()
        broken = 0
        while True:
            try:
                await self._beat()
                broken = 0
            except StoreFull:
                # Redis answers, and the earlier announcement stays valid.
                metrics.REPAIRED.labels("store_full").inc()
            except StoreUnavailable as error:
                metrics.REPAIRED.labels("announce").inc()
                log.warning("announce_failed", code=error.code)
            except Exception as error:
                metrics.REPAIRED.labels("announce").inc()
                log.error("announce_broken", error=type(error).__name__)
                broken += 1
                if broken == MAX_BROKEN:
                    # It does not pass by itself. A new process may work.
                    raise
            await asyncio.sleep(self._every_s)

    async def end(self) -> None:
        """Withdraw the announcement. It expires by itself if the store is away."""
        try:
            await self._models.withdraw(self._info)
        except StoreUnavailable:
            metrics.REPAIRED.labels("withdraw_worker").inc()

    async def _beat(self) -> None:
        now = self._info.model_copy(
            update={
                "steps_per_s": self._batcher.steps_per_s(),
                "backlog_steps": self._batcher.backlog_steps(),
                "steps_per_job": self._fetcher.steps_per_job,
                "policy": self._policy(),
            }
        )
        await self._models.announce(self._spec, now)
        await self._models.remember_cost(self._spec.name, self._spec.device, self._batcher.learnt().dump())
