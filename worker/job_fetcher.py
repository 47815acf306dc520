"""Which jobs a worker runs, and when a delivery may be acked.

The broker guarantees that a job ends, and the store decides the order. A delivery stays unacked
until its job has ended, on this worker or another. Its message is read only while this worker does
not run the job. The worker takes its jobs from the store, in fair order over all that wait for the
model. One tenant's backlog in the broker's queue therefore delays no other tenant.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine, Sequence
from concurrent import futures
from functools import partial
from typing import Any, Final

from broker.relay import publish_all
from contracts.failures import WorkerFault
from contracts.jobs import Envelope, JobFailure, JobMessage
from contracts.ports.clock import Clock
from contracts.ports.publisher import Publisher
from contracts.transitions import Busy, Ended, TakenJob
from store.stores import Stores
from telemetry import metrics
from telemetry.logs import get_logger
from worker.batcher import Batcher
from worker.deliveries import Deliveries, Verdict
from worker.job import JobRunner
from worker.receipt import Receipt
from worker.retrier import Retrier

FIRST_CHECK_S: Final = 0.25
"""A delivery is checked after this time if its job does not run here.

Another worker may have ended the job.
"""
CHECK_AGAIN_S: Final = 1.0
"""Time between later checks, and the pause after an error."""
MAX_ERRORS: Final = 3
"""Times that our own code may raise for a delivery before it becomes a dead letter."""
IDLE_S: Final = (0.05, 1.0)
"""First and longest pause of an idle worker between two calls that take jobs.

Busy workers may hold the deliveries of waiting jobs. The pause doubles from call to call.
"""
ACTIVE_PER_DELIVERY: Final = 4
"""Limit of the images of all active jobs, as a multiple of the broker's unacked deliveries.

Images that are generated and not stored yet count too.
"""
NEWEST_WEIGHT: Final = 0.1
"""Weight of the newest job in the moving averages over jobs."""

log = get_logger(__name__)


class JobFetcher:
    """Takes jobs while the batcher has room, and holds deliveries until their jobs have ended."""

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
        """`deliveries` is how many the broker sends unacked at a time.

        `wake` is set when the batcher may have room. `begin` starts a task for a job.
        """
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
        """Images of each taken job that the batcher does not have yet.

        Their slots are no longer free.
        """
        self._take_began_s = 0.0
        """When the last call that takes jobs began, by the monotonic clock."""
        self._store_has_more = False
        """Whether the store may have more jobs: the last call got as many as it asked for."""
        self._idle_s = IDLE_S[0]
        self._images_per_job = 1.0
        self.steps_per_job = 1.0
        """Denoising steps that a job needs for all its images, as a moving average."""

    async def run(self) -> None:
        """Takes jobs until the worker drains."""
        while not self._retrier.draining:
            try:
                await self._take_when_due()
            except Exception as error:  # noqa: BLE001 - the active jobs did not cause it
                # A job that was taken by then comes back when its lease expires, and the attempt counts.
                metrics.REPAIRED.labels("take").inc()
                log.error("take_broken", error=type(error).__name__)
                await self._retrier.pause(CHECK_AGAIN_S)

    def has_ended(self, job_id: str) -> bool:
        """Whether the job recently ended here. Safe on any thread.

        A job may end before the broker sends its message. Such a message is acked when it comes.
        """
        return self._deliveries.has_ended(job_id)

    def hold(self, receipt: Receipt, answer: futures.Future[Verdict]) -> None:
        """Hold a delivery as `hold_delivery` does, and put the verdict into `answer`.

        Most jobs end here within `FIRST_CHECK_S`. No task is started for them.
        """
        self._deliveries.hold(receipt, answer, FIRST_CHECK_S, self.hold_delivery)
        self._wake.set()

    async def hold_delivery(self, receipt: Receipt, check_in_s: float = FIRST_CHECK_S) -> Verdict:
        """Hold a delivery until its job has ended on any worker, or this worker drains.

        The first check of the job comes after `check_in_s` seconds, and only a check reads the
        message. Raises `Reject` for a message that is no job, and what our own code raised in
        `MAX_ERRORS` checks.
        """
        job_id = receipt.job_id
        if self.has_ended(job_id):
            return Verdict.ACK  # the job has ended since the delivery came
        with self._deliveries.held(job_id) as ended:
            self._wake.set()
            errors, message = 0, None
            while not self._retrier.draining:
                if await self._wait_ended(ended, check_in_s):
                    return Verdict.ACK
                check_in_s = CHECK_AGAIN_S
                if not self._must_check(job_id):
                    continue
                message = message or receipt.read()
                if not isinstance(message, JobMessage):
                    return await self._hold_newer(message)
                try:
                    if await self.check_claim(message):
                        return Verdict.ACK
                except Exception as error:
                    errors += 1
                    log.error("look_broken", job_id=job_id, error=type(error).__name__)
                    if errors == MAX_ERRORS:
                        raise
            if job_id in self._running:
                return Verdict.ACK if await self._running[job_id] else Verdict.REQUEUE
            return Verdict.REQUEUE

    async def _hold_newer(self, envelope: Envelope) -> Verdict:
        """Hold the delivery of a job that only a newer worker can run.

        Ends when a newer worker has ended the job, or this worker drains. A delivery whose record
        is lost goes back to the broker, because only a newer worker can rebuild the record.
        """
        job_id = envelope.job_id
        metrics.RECORDS_UNREADABLE.labels("message").inc()
        log.warning("job_left_to_newer", job_id=job_id)
        while not self._retrier.draining:
            statuses = await self._retrier.retry_until_drained(lambda: self._stores.jobs.statuses([job_id]))
            status = statuses[0] if statuses else None
            if status is not None and status.terminal:
                return Verdict.ACK
            await asyncio.sleep(CHECK_AGAIN_S)
            if statuses and status is None:
                break
        return Verdict.REQUEUE

    def running_jobs(self) -> Sequence[asyncio.Task[bool]]:
        """The tasks of the active jobs."""
        return list(self._running.values())

    async def finish(self) -> None:
        """Wait until every active job has ended or was given back.

        Call it after the runner's `drain`.
        """
        self._wake.set()
        while self._running:
            await asyncio.wait(self._running.values())

    async def _take_when_due(self) -> None:
        # Not before the next batch is near. A job that is taken now can no longer yield to one that
        # comes later, and no other worker can run it.
        due_in_s = self._batcher.fetch_due_in_s()
        if due_in_s > 0:
            await self._wait_woken(due_in_s)
        elif not await self._take():
            await self._wait_woken(FIRST_CHECK_S if self._deliveries.job_ids else self._idle_s)
            self._idle_s = min(IDLE_S[1], 2 * self._idle_s)

    async def _take(self) -> bool:
        """Take as many jobs as there is room for. Answers whether to take more at once."""
        # A generated image leaves the batcher, and stays in memory while its store is away.
        active_images = len(self._running) * self._images_per_job
        room = min(self._batcher.room(), ACTIVE_PER_DELIVERY * self._most_deliveries - active_images)
        if room <= 0 or not self._store_may_have_jobs():
            return False
        limit = max(1, round(room / self._images_per_job))
        begun_s = self._clock.monotonic()
        taken = await self._retrier.retry_until_drained(
            lambda: self._stores.jobs.take(self._model, self._worker_id, limit)
        )
        if taken is None:
            return False
        self._take_began_s = begun_s
        if not taken.jobs:
            self._batcher.observe_fetch(self._clock.monotonic() - begun_s)
        self._store_has_more = len(taken.jobs) == limit
        for job in taken.jobs:
            self._idle_s = IDLE_S[0]
            try:
                self._start(job)
            except Exception as error:  # noqa: BLE001 - the jobs taken with it did not cause it
                self._clear_pending(job.message.job_id)
                await self._give_back_crashed(job, error)
        await publish_all(self._stores.jobs, self._publisher, taken.promoted, "promoted")
        return self._store_has_more

    def _store_may_have_jobs(self) -> bool:
        """Whether jobs may wait in the store.

        They may where a held delivery's job does not run here, where other workers may hold the
        deliveries, and where the broker may hold messages back because this worker has its full
        share.
        """
        held = self._deliveries.job_ids
        all_known = 0 < len(held) < self._most_deliveries
        return not all_known or any(job_id not in self._running for job_id in held)

    def _must_check(self, job_id: str) -> bool:
        """Whether to check the job: not while it runs here, nor in a drain (stores may be closed)."""
        return job_id not in self._running and not self._retrier.draining

    async def check_claim(self, message: JobMessage) -> bool:
        """Check a job that does not run here. Answers whether it has ended.

        A job whose worker is dead, or whose record is lost, is started here.
        """
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
            self._images_per_job += NEWEST_WEIGHT * (images - self._images_per_job)
            self.steps_per_job += NEWEST_WEIGHT * (images * bounds.steps(request) - self.steps_per_job)
            self._pending_images[job_id] = images
            self._batcher.expect(sum(self._pending_images.values()))
        task = self._running[job_id] = self._begin(self._run(job))
        task.add_done_callback(partial(self._job_ended, job_id))

    def _clear_pending(self, job_id: str) -> None:
        if self._pending_images.pop(job_id, None) is not None:
            self._batcher.expect(sum(self._pending_images.values()))

    def _images_added(self, job_id: str) -> None:
        self._clear_pending(job_id)
        if not self._pending_images:
            self._batcher.observe_fetch(self._clock.monotonic() - self._take_began_s)
        if self._store_has_more and not self._pending_images:
            # The batcher has all images now, and knows whether they fill its next batch.
            self._wake.set()

    def _job_ended(self, job_id: str, task: asyncio.Task[bool]) -> None:
        # The same job may have been started here again.
        if self._running.get(job_id) is task:
            del self._running[job_id]
            self._clear_pending(job_id)

    async def _run(self, job: TakenJob) -> bool:
        try:
            ended = await self._runner.run(job, partial(self._images_added, job.message.job_id))
        except Exception as error:  # noqa: BLE001 - the job must not wait for ever
            await self._give_back_crashed(job, error)
            return False
        if ended:
            self._deliveries.ended(job.message.job_id)
        return ended

    async def _give_back_crashed(self, job: TakenJob, error: Exception) -> None:
        """Give back a job for which our own code has raised. Raises nothing.

        The attempt counts, so a job that fails like this on every attempt ends `failed`.
        """
        stack = "".join(traceback.format_tb(error.__traceback__))
        log.error("job_crashed", job_id=job.message.job_id, error=type(error).__name__, stack=stack)
        cause = WorkerFault.of(error)
        fault = JobFailure(code=cause.code, message=cause.message, retryable=cause.retryable)
        try:
            await self._retrier.retry_until_drained(lambda: self._stores.jobs.release(job.lease, fault=fault))
        except Exception as release_error:  # noqa: BLE001 - the other jobs did not cause it
            # The job comes back when its lease expires, and the attempt counts.
            log.error("job_not_given_back", job_id=job.message.job_id, error=type(release_error).__name__)

    async def _wait_ended(self, ended: asyncio.Future[bool], timeout_s: float) -> bool:
        done, _ = await asyncio.wait({ended}, timeout=timeout_s)
        return bool(done)

    async def _wait_woken(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._wake.clear()
