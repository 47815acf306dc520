"""Which jobs a worker runs, and when a delivery may be acked.

The broker keeps the promise, the store keeps the order. A delivery says only that its job must end: it stays in our hands,
unacked, until it has, whoever ran it, and its message is read only where nobody here runs its job. What the worker runs is taken
from the store, across all that waits for the model, in fair order; so nobody stands behind another tenant's backlog, however the broker's queue is filled.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine, Sequence
from concurrent import futures
from functools import partial
from typing import Any, Final

from broker.relay import publish_all
from contracts.clock import Clock
from contracts.failures import WorkerFault
from contracts.jobs import Envelope, JobFailure, JobMessage
from contracts.ports import Publisher
from contracts.transitions import Busy, Ended, TakenJob
from store.stores import Stores
from telemetry import metrics
from telemetry.logs import get_logger
from worker.batcher import Batcher
from worker.deliveries import Deliveries, Verdict
from worker.job import JobRunner
from worker.receipt import Receipt
from worker.retrier import Retrier

FIRST_LOOK_S: Final = 0.25
"""A delivery whose job has not been run here for so long may be of one that another worker has ended."""
LOOK_AGAIN_S: Final = 1.0
PATIENCE: Final = 3
"""Times that our own code may raise for a delivery before the broker has it as a dead letter."""
IDLE_S: Final = (0.05, 1.0)
"""How often a worker that is idle looks for jobs whose deliveries are in busier hands: soon after the last job, then ever less."""
IN_HAND: Final = 4
"""Bound of the images of all jobs in hand, also of those that are drawn and not stored yet, over the deliveries in hand."""
NEWEST: Final = 0.1
"""Weight of the newest job in the means over jobs."""

log = get_logger(__name__)


class JobFetcher:
    """Takes jobs as long as the batcher has room, and holds deliveries until their jobs have ended."""

    def __init__(
        self,
        worker_id: str,
        model: str,
        stores: Stores,
        publisher: Publisher,
        runner: JobRunner,
        batcher: Batcher,
        retrier: Retrier,
        clock: Clock,
        deliveries: int,
        wake: asyncio.Event,
        begin: Callable[[Coroutine[Any, Any, bool]], asyncio.Task[bool]],
    ) -> None:
        """`deliveries` is how many the broker leaves in our hands at a time. `wake` is set when the batcher may have room. `begin`
        makes a task of a job."""
        self._worker_id = worker_id
        self._model = model
        self._stores = stores
        self._publisher = publisher
        self._runner = runner
        self._batcher = batcher
        self._retrier = retrier
        self._clock = clock
        self._deliveries = Deliveries()
        self._most_deliveries = deliveries
        self._wake = wake
        self._begin = begin
        self._running: dict[str, asyncio.Task[bool]] = {}
        self._pending_images: dict[str, int] = {}
        """Images of jobs that are taken, and that the batcher has not been brought yet: their places are no longer free."""
        self._asked_s = 0.0
        """When the store was last asked for jobs."""
        self._more = False
        """Whether the store may have more: it gave as many as it was asked for."""
        self._idle_s = IDLE_S[0]
        self._images_per_job = 1.0
        self.steps_per_job = 1.0
        """Denoising steps of one image that a job lately needed."""

    async def run(self) -> None:
        """Takes jobs until the worker drains."""
        while not self._retrier.draining:
            try:
                await self._take_in_time()
            except Exception as error:  # noqa: BLE001 - whatever it is, the jobs in hand have no part in it
                # What was taken by then comes back when its lease lapses, and the attempt counts.
                metrics.REPAIRED.labels("take").inc()
                log.error("take_broken", error=type(error).__name__)
                await self._retrier.pause(LOOK_AGAIN_S)

    def has_ended(self, job_id: str) -> bool:
        """Whether the job was lately seen to end here, from any thread: its delivery is acked as it comes. A worker takes jobs from the
        store, and may end them before the broker has handed it their messages."""
        return self._deliveries.has_ended(job_id)

    def hold(self, receipt: Receipt, answer: futures.Future[Verdict]) -> None:
        """Holds a delivery as `hold_delivery` does, whose answer becomes `answer`'s. As a rule its job ends here, and soon: no task waits for
        that."""
        self._deliveries.hold(receipt, answer, FIRST_LOOK_S, self.hold_delivery)
        self._wake.set()

    async def hold_delivery(self, receipt: Receipt, look_s: float = FIRST_LOOK_S) -> Verdict:
        """Holds a delivery until its job has ended, here or elsewhere, or the worker drains. Its message is read only where the job has
        to be asked after, for the first time after `look_s`. Raises `Reject` for what turns out to be no job."""
        job_id = receipt.job_id
        if self.has_ended(job_id):
            return Verdict.ACK  # since it came
        with self._deliveries.held(job_id) as ended:
            self._wake.set()
            broken, message = 0, None
            while not self._retrier.draining:
                if await self._settled(ended, look_s):
                    return Verdict.ACK
                look_s = LOOK_AGAIN_S
                if not self._elsewhere(job_id):
                    continue
                message = message or receipt.read()
                if not isinstance(message, JobMessage):
                    return await self._hold(message)
                try:
                    if await self.check_claim(message):
                        return Verdict.ACK
                except Exception as error:
                    broken += 1
                    log.error("look_broken", job_id=job_id, error=type(error).__name__)
                    if broken == PATIENCE:
                        raise
            if job_id in self._running:
                return Verdict.ACK if await self._running[job_id] else Verdict.REQUEUE
            return Verdict.REQUEUE

    async def _hold(self, envelope: Envelope) -> Verdict:
        """Holds the delivery of a job that only a newer worker can run until that has ended it, or this one drains. One whose
        record is lost goes back to the broker, for only a newer worker can write it anew."""
        job_id = envelope.job_id
        metrics.RECORDS_UNREADABLE.labels("message").inc()
        log.warning("job_left_to_newer", job_id=job_id)
        while not self._retrier.draining:
            known = await self._retrier.retry_until_drained(lambda: self._stores.jobs.statuses([job_id]))
            status = known[0] if known else None
            if status is not None and status.terminal:
                return Verdict.ACK
            await asyncio.sleep(LOOK_AGAIN_S)
            if known and status is None:
                break
        return Verdict.REQUEUE

    def left(self) -> Sequence[asyncio.Task[bool]]:
        """The jobs in hand."""
        return list(self._running.values())

    async def finish(self) -> None:
        """Until everything in hand has ended or was given back; after the runner was told to drain."""
        self._wake.set()
        while self._running:
            await asyncio.wait(self._running.values())

    async def _take_in_time(self) -> None:
        # Not before it is time: what is taken now can no longer yield to whoever comes in the meantime, nor be run by
        # another worker.
        early_s = self._batcher.ripe_in_s()
        if early_s > 0:
            await self._woken(early_s)
        elif not await self._take():
            await self._woken(FIRST_LOOK_S if self._deliveries.job_ids else self._idle_s)
            self._idle_s = min(IDLE_S[1], 2 * self._idle_s)

    async def _take(self) -> bool:
        """As many jobs as there is room for. Answers whether there may be more room, and more jobs, right now."""
        # What is drawn leaves the batcher, not our memory: the pictures may find no place to go.
        kept = len(self._running) * self._images_per_job
        room = min(self._batcher.room(), IN_HAND * self._most_deliveries - kept)
        if room <= 0 or not self._wanted():
            return False
        limit = max(1, round(room / self._images_per_job))
        begun_s = self._clock.monotonic()
        taken = await self._retrier.retry_until_drained(
            lambda: self._stores.jobs.take(self._model, self._worker_id, limit)
        )
        if taken is None:
            return False
        self._asked_s = begun_s
        if not taken.jobs:
            self._batcher.brought_in(self._clock.monotonic() - begun_s)
        self._more = len(taken.jobs) == limit
        for job in taken.jobs:
            self._idle_s = IDLE_S[0]
            try:
                self._start(job)
            except Exception as error:  # noqa: BLE001 - whatever it is, those taken with it have no part in it
                self._came(job.message.job_id)
                await self._spend(job, error)
        await publish_all(self._stores.jobs, self._publisher, taken.promoted, "promoted")
        return self._more

    def _wanted(self) -> bool:
        """Whether something may wait in the store: a delivery whose job is not run here, others' ones, or more than the broker
        leaves in our hands."""
        held = self._deliveries.job_ids
        known = 0 < len(held) < self._most_deliveries
        return not known or any(job_id not in self._running for job_id in held)

    def _elsewhere(self, job_id: str) -> bool:
        """Whether to ask after the job: not while it runs here, nor when the stores may be closed by now."""
        return job_id not in self._running and not self._retrier.draining

    async def check_claim(self, message: JobMessage) -> bool:
        """Asks after a job that is not run here. One whose worker is dead, or whose record is lost, becomes ours."""
        claim = await self._retrier.retry_until_drained(
            lambda: self._stores.jobs.claim(message, self._worker_id, leave_waiting=True)
        )
        match claim:
            case None | Busy():
                return False
            case Ended(status, promoted):
                log.info("job_already_ended", job_id=message.job_id, status=status.value)
                await publish_all(self._stores.jobs, self._publisher, promoted, "promoted")
                return True
        self._start(TakenJob(message, claim.lease))
        return False

    def _start(self, job: TakenJob) -> None:
        request, bounds = job.message.request, self._runner.bounds
        job_id = job.message.job_id
        if bounds.failure(request) is None:
            images = request.num_images
            self._images_per_job += NEWEST * (images - self._images_per_job)
            self.steps_per_job += NEWEST * (images * bounds.steps(request) - self.steps_per_job)
            self._pending_images[job_id] = images
            self._batcher.expect(sum(self._pending_images.values()))
        task = self._running[job_id] = self._begin(self._run(job))
        task.add_done_callback(partial(self._forget, job_id))

    def _came(self, job_id: str) -> None:
        if self._pending_images.pop(job_id, None) is not None:
            self._batcher.expect(sum(self._pending_images.values()))

    def _brought(self, job_id: str) -> None:
        self._came(job_id)
        if not self._pending_images:
            self._batcher.brought_in(self._clock.monotonic() - self._asked_s)
        if self._more and not self._pending_images:
            # Now the batcher knows whether they fill its next pass.
            self._wake.set()

    def _forget(self, job_id: str, task: asyncio.Task[bool]) -> None:
        # It may have come back to us meanwhile.
        if self._running.get(job_id) is task:
            del self._running[job_id]
            self._came(job_id)

    async def _run(self, job: TakenJob) -> bool:
        try:
            done = await self._runner.run(job, partial(self._brought, job.message.job_id))
        except Exception as error:  # noqa: BLE001 - whatever it is, the job must not hang on it
            await self._spend(job, error)
            return False
        if done:
            self._deliveries.ended(job.message.job_id)
        return done

    async def _spend(self, job: TakenJob, error: Exception) -> None:
        """Gives a job back for which our own code has raised. It counts as an attempt: a job that always does this ends `failed`.
        Raises nothing."""
        stack = "".join(traceback.format_tb(error.__traceback__))
        log.error("job_crashed", job_id=job.message.job_id, error=type(error).__name__, stack=stack)
        broken = WorkerFault.of(error)
        fault = JobFailure(code=broken.code, message=broken.message, retryable=broken.retryable)
        try:
            await self._retrier.retry_until_drained(lambda: self._stores.jobs.release(job.lease, fault=fault))
        except Exception as unreleased:  # noqa: BLE001 - the other jobs, and the worker, have no part in it
            # It comes back when its lease lapses, and the attempt counts.
            log.error("job_not_given_back", job_id=job.message.job_id, error=type(unreleased).__name__)

    async def _settled(self, ended: asyncio.Future[bool], timeout_s: float) -> bool:
        done, _ = await asyncio.wait({ended}, timeout=timeout_s)
        return bool(done)

    async def _woken(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._wake.clear()
