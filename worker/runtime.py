"""The worker's event loop on a separate thread, to which Celery's consumer passes its messages."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeVar

from contracts.models import ModelSpec
from contracts.ports.clock import Clock
from contracts.settings import WorkerSettings
from runtime.clock import SystemClock
from telemetry.logs import get_logger
from worker.deliveries import Verdict
from worker.naming import worker_id
from worker.receipt import Receipt
from worker.service import Service, serving

T = TypeVar("T")

STOP_S: Final = 10.0
"""How long `stop` waits for the event loop, and for its thread."""
ALIVE_S: Final = 5.0
"""An event loop that does not answer within this many seconds is stuck."""

log = get_logger(__name__)


class Runtime:
    """Everything of a worker but the consumer, for other threads.

    Call `start`, then `run` for each delivery, then `drain`, then `stop`.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._clock: Clock = SystemClock()
        self._id = worker_id()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="runtime", daemon=True)
        self._service: Service | None = None
        self._service_task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._stop_task: asyncio.Task[None] | None = None
        self.failed = False
        """Whether a part has failed for good, usually the engine.

        The process should end with an error.
        """
        self._ready = False
        self._draining = False

    def start(self) -> ModelSpec:
        """Load the model, and answer what it is. Raises `EngineLoadError`."""
        self._thread.start()
        spec = self._call(self._start()).result()
        self._ready = True
        return spec

    def run(self, receipt: Receipt) -> Future[Verdict] | Verdict:
        """Hold a delivery. Answers its verdict, or a future of it. Safe on any thread."""
        fetcher = self._started().fetcher
        if fetcher.has_ended(receipt.job_id):
            return Verdict.ACK
        answer: Future[Verdict] = Future()
        self._loop.call_soon_threadsafe(fetcher.hold, receipt, answer)
        return answer

    def unready(self) -> str | None:
        """Why this worker should get no jobs now; None: it should.

        A readiness probe asks, on any thread.
        """
        if self.failed:
            return "A part of the worker has failed for good, usually the engine."
        return None if self._ready else "The worker is loading its model, or draining."

    def fault(self) -> str | None:
        """Why the process should be restarted; None: it should not.

        A liveness probe asks, on any thread.
        """
        if not self._thread.is_alive():
            # The worker starts or stops. Each has its own time limit.
            return None
        try:
            self._call(asyncio.sleep(0)).result(ALIVE_S)
        except TimeoutError:
            return f"The event loop has not answered for {ALIVE_S:g} s."
        except RuntimeError:
            return None  # the loop was closed just now
        # The host ends a batch at its timeout, and then a new engine must load. A working engine needs
        # no longer than both.
        limit_s = self._settings.batch_timeout_s + self._settings.load_timeout_s
        stalled_s = self._service.batcher.stalled_s() if self._service and self._ready else 0.0
        return f"No batch has ended for {stalled_s:.0f} s." if stalled_s > limit_s else None

    def announce(self) -> None:
        """Begin to announce this worker to the API.

        Call it once the consumer is connected to the broker.
        """
        self._loop.call_soon_threadsafe(self._started().heartbeat.begin)

    def drain(self) -> None:
        """Begin to end. A second call does nothing.

        Started images may finish within the drain timeout. All other jobs are given back at once.
        """
        self._ready = False
        self._loop.call_soon_threadsafe(self._drain)

    def stop(self) -> None:
        """End the engine and close all connections. Call it after the consumer has ended."""
        self._call(self._stop()).result(STOP_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)
        self._loop.close()

    async def _start(self) -> ModelSpec:
        started: asyncio.Future[ModelSpec] = self._loop.create_future()
        self._service_task = asyncio.create_task(self._serve(started), name="worker")
        self._service_task.add_done_callback(partial(self._service_ended, started))
        return await started

    async def _serve(self, started: asyncio.Future[ModelSpec]) -> None:
        async with serving(self._settings, self._id, self._clock, self._fail) as service:
            self._service = service
            started.set_result(service.spec)
            try:
                await self._stopping.wait()
            finally:
                # A drain gives every held delivery back, and ends all calls of the stores before they
                # are closed.
                service.runner.drain()

    def _service_ended(self, started: asyncio.Future[ModelSpec], task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
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
        self._started().runner.drain()
        self._loop.call_later(self._settings.drain_timeout_s, self._cut_short)

    def _cut_short(self) -> None:
        log.warning("drain_timed_out", worker=self._id)
        self._stop_task = asyncio.create_task(self._started().batcher.stop())

    async def _stop(self) -> None:
        self._stopping.set()
        if self._service_task is not None and not self._service_task.done():
            # `_service_ended` handles what it raises.
            await asyncio.wait([self._service_task])

    def _started(self) -> Service:
        if self._service is None:
            raise RuntimeError("The worker has not been started.")
        return self._service

    def _call(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)
