"""The worker's inner life: an event loop on a thread of its own, to which Celery's threads hand their messages."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, TypeVar

from broker.publisher import open_publisher
from cache.blobs import DirectoryBlobStore
from cache.stores import Stores, open_stores
from contracts.clock import Clock, SystemClock
from contracts.errors import StoreFull, StoreUnavailable
from contracts.jobs import Envelope, JobMessage
from contracts.models import ModelSpec, WorkerInfo
from contracts.settings import WorkerSettings
from contracts.tasks import end
from scheduler.cost import CostModel
from telemetry import metrics, series
from telemetry.logs import get_logger
from worker.batcher import Batcher
from worker.bounds import Bounds
from worker.encode import Encoder
from worker.engine.host import EngineDied, EngineHost, EngineUnloadable
from worker.job import JobRunner
from worker.leases import Leases
from worker.naming import worker_id
from worker.taker import Taker, Verdict

T = TypeVar("T")

MAX_BROKEN: Final = 3
"""Announcements in a row that our own code breaks; after them the worker ends."""
STOP_S: Final = 10.0
GIVE_BACK_S: Final = 5.0
LOAD_AGAIN_S: Final = (1.0, 5.0)
"""Pauses after which an engine is started again whose process ended while it loaded: whatever took its memory may be gone."""
ALIVE_S: Final = 5.0
"""An event loop that does not come round within this is stuck."""

log = get_logger(__name__)


class Runtime:
    """Everything of a worker but the consumer. `start`; `run` from many threads; `drain`, then `stop`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._clock: Clock = SystemClock()
        self._id = worker_id()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="runtime", daemon=True)
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: JobRunner
        self._taker: Taker
        self._batcher: Batcher
        self._stores: Stores
        self._spec: ModelSpec
        self._info: WorkerInfo | None = None
        self._announcing = False
        self.failed = False
        """Whether a part is beyond repair, as a rule the engine: the process should end with an error."""
        self._ready = False

    def start(self) -> ModelSpec:
        """Load the model. Raises `EngineUnloadable`."""
        self._thread.start()
        spec = self._call(self._start()).result()
        self._ready = True
        return spec

    def run(self, message: JobMessage) -> Verdict:
        """Holds a delivery, from any thread; returns when it may be answered."""
        return self._call(self._taker.attend(message)).result()

    def hold(self, envelope: Envelope) -> Verdict:
        """Holds the delivery of a job that only a newer worker can run, from any thread."""
        return self._call(self._taker.hold(envelope.job_id)).result()

    def unready(self) -> str | None:
        """Why no jobs should come here now: for a readiness probe, from any thread."""
        if self.failed:
            return "A part of it has failed for good, as a rule the engine."
        return None if self._ready else "It loads its model, or it drains."

    def fault(self) -> str | None:
        """Why the process should be started anew: for a liveness probe, from any thread."""
        if not self._thread.is_alive():
            # Not started yet, or stopping: both have limits of their own.
            return None
        try:
            self._call(asyncio.sleep(0)).result(ALIVE_S)
        except TimeoutError:
            return f"The event loop has not come round for {ALIVE_S:g} s."
        except RuntimeError:
            return None  # closed just now
        # The host ends a pass that takes too long, and a fresh engine must load: no good pass needs longer than both.
        limit_s = self._settings.batch_timeout_s + self._settings.load_timeout_s
        stalled_s = self._batcher.stalled_s() if self._ready else 0.0
        return f"No pass has ended for {stalled_s:.0f} s." if stalled_s > limit_s else None

    def announce(self) -> None:
        """Tell the API, from now on, that this worker serves its model; once it is connected to the broker."""
        self._loop.call_soon_threadsafe(self._begin_to_announce)

    def drain(self) -> None:
        """Begin to end: the running batch may finish within the drain timeout, all else is given back at once."""
        self._ready = False
        self._loop.call_soon_threadsafe(self._drain)

    def stop(self) -> None:
        """End the engine and close all connections; after the consumer has ended."""
        self._call(self._stop()).result(STOP_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)
        self._loop.close()

    async def _start(self) -> ModelSpec:
        settings = self._settings
        self._stores = open_stores(settings)
        self._publisher = open_publisher(settings)
        blobs = self._stores.blobs
        # A bucket is not written to by a thread that could encode meanwhile.
        self._encoder = Encoder(blobs.write if isinstance(blobs, DirectoryBlobStore) else None)
        leases = Leases(self._stores.jobs, settings.heartbeat_s)
        self._host = EngineHost(settings)
        self._spec = await self._load()
        room = asyncio.Event()
        # The model may leave less room than was asked for.
        max_batch = min(settings.max_batch, self._spec.max_batch)
        self._batcher = Batcher(self._host, max_batch, self._clock, await self._recall(), room)
        self._runner = JobRunner(
            self._id,
            self._stores,
            self._publisher,
            self._batcher,
            self._encoder,
            leases,
            self._clock,
            Bounds(self._spec, settings.max_images_per_job),
            share_cache=settings.share_cache_between_tenants,
        )
        self._taker = Taker(
            self._id,
            self._spec.name,
            self._stores,
            self._publisher,
            self._runner,
            self._batcher,
            self._clock,
            settings.deliveries,
            room,
        )
        series.begin_worker(self._spec.name, settings.max_attempts)
        self._info = WorkerInfo(id=self._id, model=self._spec.name, started_at=self._clock.now())
        batching = asyncio.create_task(self._batcher.run(), name="batcher")
        taking = asyncio.create_task(self._taker.run(), name="taker")
        hearing = asyncio.create_task(leases.hear(self._stores.events, self._id), name="cancellations")
        self._tasks = [batching, taking, hearing, asyncio.create_task(leases.run(), name="leases")]
        for part in self._tasks:
            part.add_done_callback(self._part_ended)
        log.info("worker_ready", worker=self._id, model=self._spec.name, revision=self._spec.revision)
        spec = self._spec
        metrics.ENGINE_INFO.labels(spec.name, spec.device, spec.dtype, spec.attention).set(1)
        return self._spec

    async def _load(self) -> ModelSpec:
        """Starts the engine; another one where its process was ended before it could say what is wrong. Raises `EngineUnloadable`."""
        for delay_s in LOAD_AGAIN_S:
            try:
                return await asyncio.to_thread(self._host.start)
            except EngineDied as error:
                log.warning("engine_died_loading", reason=str(error), again_in_s=delay_s)
            await asyncio.sleep(delay_s)
        return await asyncio.to_thread(self._host.start)

    async def _recall(self) -> CostModel:
        """What earlier workers of this model on this kind of device have learnt of its speed."""
        try:
            told = await self._stores.models.recall_cost(self._spec.name, self._spec.device)
            return CostModel.load(told) if told else CostModel()
        except (StoreUnavailable, ValueError):
            # It is learnt again from the first passes.
            metrics.REPAIRED.labels("recall_cost").inc()
            return CostModel()

    def _begin_to_announce(self) -> None:
        # Celery says that it is ready after every reconnect.
        if self._info is not None and not self._announcing:
            self._announcing = True
            heartbeat = asyncio.create_task(self._announce(self._info), name="heartbeat")
            # A worker of which nobody hears is no worker.
            heartbeat.add_done_callback(self._part_ended)
            self._tasks.append(heartbeat)

    async def _announce(self, info: WorkerInfo) -> None:
        models, broken = self._stores.models, 0
        while True:
            batcher = self._batcher
            try:
                now = info.model_copy(
                    update={
                        "steps_per_s": batcher.steps_per_s(),
                        "backlog_steps": batcher.backlog_steps(),
                        "steps_per_job": self._taker.steps_per_job,
                    }
                )
                await models.announce(self._spec, now)
                await models.remember_cost(self._spec.name, self._spec.device, batcher.learnt().dump())
                broken = 0
            except StoreFull:
                # Redis is there, and what has been announced stays known.
                metrics.REPAIRED.labels("store_full").inc()
            except StoreUnavailable as error:
                metrics.REPAIRED.labels("announce").inc()
                log.warning("announce_failed", code=error.code)
            except Exception as error:
                metrics.REPAIRED.labels("announce").inc()
                log.error("announce_broken", error=type(error).__name__)
                broken += 1
                if broken == MAX_BROKEN:
                    # It does not pass by itself: a fresh process may do better.
                    raise
            await asyncio.sleep(self._settings.heartbeat_s)

    def _part_ended(self, part: asyncio.Task[None]) -> None:
        error = None if part.cancelled() else part.exception()
        if error is not None:
            reason = str(error) if isinstance(error, EngineUnloadable) else type(error).__name__
            log.error("worker_part_failed", part=part.get_name(), reason=reason)
            self.failed = True
            self._runner.drain()
            os.kill(os.getpid(), signal.SIGTERM)

    def _drain(self) -> None:
        log.info("worker_draining", worker=self._id)
        self._runner.drain()
        self._loop.call_later(self._settings.drain_timeout_s, self._cut_short)

    def _cut_short(self) -> None:
        log.warning("drain_timed_out", worker=self._id)
        self._tasks.append(asyncio.create_task(self._batcher.stop()))

    async def _stop(self) -> None:
        # Jobs whose deliveries are in other hands: what has been begun is finished, the rest is given back.
        if self._info is not None:
            self._runner.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(GIVE_BACK_S):
                    await self._taker.finish()
        if self._info is not None:
            await self._batcher.stop()
        await asyncio.to_thread(self._host.kill)
        await end(*self._tasks)
        try:
            if self._info is not None:
                await self._stores.models.withdraw(self._info)
        except StoreUnavailable:
            # It is forgotten by itself when its time to live is over.
            metrics.REPAIRED.labels("withdraw_worker").inc()
        self._encoder.close()
        await self._publisher.close()
        await self._stores.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)
