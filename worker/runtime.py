"""The worker's event loop on a thread of its own, to which Celery's consumer hands its messages."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeVar

from contracts.clock import Clock, SystemClock
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from telemetry.logs import get_logger
from worker.deliveries import Verdict
from worker.naming import worker_id
from worker.receipt import Receipt
from worker.service import Service, serving

T = TypeVar("T")

STOP_S: Final = 10.0
ALIVE_S: Final = 5.0
"""An event loop that does not come round within this is stuck."""

log = get_logger(__name__)


class Runtime:
    """Everything of a worker but the consumer, for other threads. `start`; `run` for each delivery; `drain`, then `stop`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._clock: Clock = SystemClock()
        self._id = worker_id()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="runtime", daemon=True)
        self._service: Service | None = None
        self._life: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._cut: asyncio.Task[None] | None = None
        self.failed = False
        """Whether a part is beyond repair, as a rule the engine: the process should end with an error."""
        self._ready = False
        self._draining = False

    def start(self) -> ModelSpec:
        """Load the model. Raises `EngineLoadError`."""
        self._thread.start()
        spec = self._call(self._start()).result()
        self._ready = True
        return spec

    def run(self, receipt: Receipt) -> Future[Verdict] | Verdict:
        """Holds a delivery, from any thread; done when it may be answered, which may be now."""
        fetcher = self._of().fetcher
        if fetcher.has_ended(receipt.job_id):
            return Verdict.ACK
        answer: Future[Verdict] = Future()
        self._loop.call_soon_threadsafe(fetcher.hold, receipt, answer)
        return answer

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
        stalled_s = self._service.batcher.stalled_s() if self._service and self._ready else 0.0
        return f"No pass has ended for {stalled_s:.0f} s." if stalled_s > limit_s else None

    def announce(self) -> None:
        """Tell the API, from now on, that this worker serves its model; once it is connected to the broker."""
        self._loop.call_soon_threadsafe(self._of().heartbeat.begin)

    def drain(self) -> None:
        """Begin to end: the running batch may finish within the drain timeout, all else is given back at once. Told twice, it is
        the same."""
        self._ready = False
        self._loop.call_soon_threadsafe(self._drain)

    def stop(self) -> None:
        """End the engine and close all connections; after the consumer has ended."""
        self._call(self._stop()).result(STOP_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)
        self._loop.close()

    async def _start(self) -> ModelSpec:
        started: asyncio.Future[ModelSpec] = self._loop.create_future()
        self._life = asyncio.create_task(self._live(started), name="worker")
        self._life.add_done_callback(partial(self._ended, started))
        return await started

    async def _live(self, started: asyncio.Future[ModelSpec]) -> None:
        async with serving(self._settings, self._id, self._clock, self._fail) as service:
            self._service = service
            started.set_result(service.spec)
            try:
                await self._stopping.wait()
            finally:
                # However it ends, whoever holds a delivery gives it back, and leaves the stores alone before they are closed.
                service.runner.drain()

    def _ended(self, started: asyncio.Future[ModelSpec], life: asyncio.Task[None]) -> None:
        error = None if life.cancelled() else life.exception()
        if error is None:
            return
        if not started.done():
            started.set_exception(error)
            return
        log.error("worker_failed", worker=self._id, error=type(error).__name__)
        self._ready = False
        if self._stopping.is_set():
            self.failed = True
        else:
            self._fail()

    def _fail(self) -> None:
        self.failed = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        log.info("worker_draining", worker=self._id)
        self._of().runner.drain()
        self._loop.call_later(self._settings.drain_timeout_s, self._cut_short)

    def _cut_short(self) -> None:
        log.warning("drain_timed_out", worker=self._id)
        self._cut = asyncio.create_task(self._of().batcher.stop())

    async def _stop(self) -> None:
        self._stopping.set()
        if self._life is not None and not self._life.done():
            # What it raises is heard by `_ended`.
            await asyncio.wait([self._life])

    def _of(self) -> Service:
        if self._service is None:
            raise RuntimeError("The worker has not been started.")
        return self._service

    def _call(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)
