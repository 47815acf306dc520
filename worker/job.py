"""One job in a worker: generate its images, encode and store them, finish the job, fill the cache."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from broker.relay import publish_all
from cache.cache_key import result_address, tenant_scope
from contracts import failures
from contracts.engine import BatchKey, ImageFault, ImageTask, Pixels, Progress
from contracts.errors import BlobStoreUnavailable, ContentBlocked, ImageNotFound, StoreUnavailable
from contracts.failures import GenerationError, InitImageLost, OutOfBounds, WorkerFault
from contracts.jobs import JobFailure, JobMessage, JobStatus, Lease
from contracts.pictures import SHARED, PictureRecord
from contracts.ports.clock import Clock
from contracts.ports.publisher import Publisher
from contracts.requests import GenerationRequest
from contracts.transitions import End, Finished, Granted, TakenJob
from moderation.held import gravest, was_released
from scheduler.previews import preview_steps
from store.stores import Stores
from telemetry import logs, metrics, tracing
from telemetry.logs import get_logger
from worker.batcher import Batcher
from worker.bounds import Bounds
from worker.encode import Encoder
from worker.end_batcher import EndBatcher
from worker.images import ImageResult, ScheduleKey, TooLate
from worker.init_images import InitImages
from worker.leases import Leases
from worker.outcomes import outcomes_of
from worker.pictures import DoneImages, Pictures, picture_records
from worker.previews import PreviewPublisher
from worker.progress import ProgressReporter
from worker.retrier import GIVE_UP_S, Hold, Retrier, unstored
from worker.signing import SignedImages
from worker.verdicts import Verdicts, held_images, never_looked_at

INIT_IMAGE_BLOCKED: Final = "The content policy does not allow the init image."
IMAGES_BLOCKED: Final = "The content policy blocks every image of this job."
REFUNDS: Final = 50
"""Refunds of each shard that the end of a blocked job pays at most."""
INIT_IMAGE_LOST: Final = "The init image was deleted before the job ran."

log = get_logger(__name__)


class JobRunner:
    """Runs jobs that have been taken, many at once, on one event loop."""

    def __init__(
        self,
        worker_id: str,
        stores: Stores,
        publisher: Publisher,
        batcher: Batcher,
        encoder: Encoder,
        leases: Leases,
        endings: EndBatcher,
        retrier: Retrier,
        clock: Clock,
        bounds: Bounds,
        *,
        share_cache: bool = False,
        keep_pictures_s: float = 259_200.0,
        signed: SignedImages | None = None,
        verdicts: Verdicts | None = None,
        init_images: InitImages | None = None,
    ) -> None:
        """`verdicts` judges the images, and `init_images` those that jobs start from; None: no policy is in force."""
        self._worker_id = worker_id
        self._stores = stores
        self._publisher = publisher
        self._batcher = batcher
        self._encoder = encoder
        self._leases = leases
        self._endings = endings
        self._clock = clock
        self.bounds = bounds
        """The bounds of the loaded model."""
        self._share_cache = share_cache
        self._keep_pictures_s = keep_pictures_s
        self._retrier = retrier
        self._pictures = Pictures(stores, encoder, retrier, bounds.spec, signed, verdicts, init_images)
        self._verdicts = verdicts
        self._looks = never_looked_at if verdicts is None else verdicts.second_look

    def drain(self) -> None:
        """Give back the images that have not started, and stop retrying stores."""
        self._retrier.drain()
        self._batcher.drain()

    async def run(self, taken: TakenJob, on_added: Callable[[], object] = lambda: None) -> bool:
        """Run the job to its end. Raises nothing that a bad job can cause.

        `on_added` is called once the batcher has the job's images. Answers whether the job has
        ended on this worker. If not, the store knows what has become of it.
        """
        message, model = taken.message, self.bounds.spec.name
        metrics.ATTEMPTS.labels(model, str(taken.lease.attempt)).inc()
        metrics.QUEUE_SECONDS.labels(model).observe(max(0.0, taken.lease.claimed_at - message.created_at))
        with (
            logs.bound(job_id=message.job_id, request_id=message.origin.request_id),
            tracing.span(
                f"process {model}",
                "consumer",
                parent=message.origin.traceparent,
                root=message.origin.traceparent is None,
                attributes={"darkroom.job_id": message.job_id, "darkroom.attempt": taken.lease.attempt},
            ),
        ):
            return await self._run(taken, on_added)

    async def _run(self, taken: TakenJob, on_added: Callable[[], object]) -> bool:
        message, lease, request = taken.message, taken.lease, taken.message.request
        failure = self.bounds.failure(request)
        if failure is not None:
            return await self._fail(message, lease, failure)
        guided = request.guidance_scale > 1
        lora = request.lora
        key = BatchKey(
            request.model,
            request.width,
            request.height,
            guided,
            lora=lora.name if lora else "",
            lora_scale=lora.scale if lora else 0.0,
        )
        # The store's clock set both times, so the difference holds whatever this worker's clock says.
        left_s = lease.deadline - lease.claimed_at
        schedule_key = ScheduleKey(taken.tag, self._clock.monotonic() + left_s)
        hold = Hold(schedule_key.deadline - GIVE_UP_S)
        progress = ProgressReporter(self._stores.jobs, lease)
        previews = PreviewPublisher(self._stores, self._encoder, lease, request)

        def on_step(step: Progress) -> None:
            progress.report(step)
            # A preview would be seen before the verdict.
            if step.preview is not None and not (
                self._verdicts is not None or request.held or request.policy
            ):
                previews.publish(step.preview)

        try:
            with self._leases.hold(lease, hold.void.set):
                start = await self._pictures.start(message, hold)
        except BlobStoreUnavailable as error:
            return await self._fail(message, lease, unstored("read", error))
        except ImageNotFound:
            lost = JobFailure(
                code=InitImageLost.code, message=INIT_IMAGE_LOST, retryable=InitImageLost.retryable
            )
            return await self._fail(message, lease, lost)
        except OutOfBounds as error:
            return await self._fail(message, lease, JobFailure(code=error.code, message=error.message))
        if start is None and request.init_image is not None:
            return await self._gave_up(lease)
        if start is not None and start.verdict is not None:
            if start.verdict.state in ("blocked", "refused"):
                log.info("init_image_blocked", policy=start.verdict.policy, layer=start.verdict.layer)
                return await self._blocked(message, lease, INIT_IMAGE_BLOCKED)
            if not was_released(start.verdict) and (start.verdict.findings or start.verdict.away):
                # What is held for the init image is held whatever the images show. What people have
                # released counts for nothing, also when the cached result is judged again.
                request = request.judged(gravest(start.verdict, request.moderation))
                message = message.model_copy(update={"request": request})
        steps = self.bounds.steps(request)
        images: list[asyncio.Future[ImageResult]] = []

        def withdraw() -> None:
            hold.void.set()
            for image in images:
                image.cancel()

        with (
            metrics.IN_FLIGHT.labels(request.model).track_inprogress(),
            self._leases.hold(lease, withdraw),
            _ending(withdraw),
        ):
            for index, task in enumerate(_tasks(request, None if start is None else start.rgb, steps)):
                # The images of a job advance together: the steps of the first stand for all.
                callback = on_step if index == 0 else _ignore
                images.append(self._batcher.add(key, task, schedule_key, callback))
            on_added()
            with tracing.span("draw") as span:
                outcomes = await outcomes_of(images)
                results = [outcome for outcome in outcomes if isinstance(outcome, ImageResult)]
                for last_batch in dict.fromkeys(result.traceparent for result in results):
                    span.link(last_batch)
            await progress.end()
            await previews.end()
            worker_fault = next((outcome for outcome in outcomes if isinstance(outcome, WorkerFault)), None)
            if worker_fault is not None:
                raise worker_fault
            if any(isinstance(outcome, TooLate) for outcome in outcomes):
                return await self._end(message, JobStatus.EXPIRED, End(lease, None))
            if len(results) < len(outcomes):
                return await self._gave_up(lease)
            fault = next((result.image for result in results if isinstance(result.image, ImageFault)), None)
            if fault is None:
                try:
                    return await self._succeed(message, lease, results, hold)
                except BlobStoreUnavailable as error:
                    return await self._fail(message, lease, unstored("stored", error))
            failure = JobFailure(code=fault.code, message=fault.message, retryable=fault.code in _RETRYABLE)
            return await self._fail(message, lease, failure)

    async def _gave_up(self, lease: Lease) -> bool:
        """Give the job back after its images were withdrawn.

        The worker drains, its engine is gone, or the lease is void. A void lease has nothing to give back. The job has ended, runs on another worker, or has
        lost its record.
        """
        await self._retrier.retry_until_drained(lambda: self._stores.jobs.release(lease))
        return False

    async def _fail(self, message: JobMessage, lease: Lease, failure: JobFailure) -> bool:
        return await self._end(message, JobStatus.FAILED, End(lease, failure))

    async def _blocked(self, message: JobMessage, lease: Lease, words: str) -> bool:
        """End a job that moderation blocks. It owes its key what it was charged."""
        failure = JobFailure(code=ContentBlocked.code, message=words)
        return await self._end(
            message, JobStatus.FAILED, End(lease, failure, refund=message.request.num_images)
        )

    async def _end(self, message: JobMessage, status: JobStatus, end: End) -> bool:
        """Finish the job, and publish the follower that leads now if the job has no picture.

        Answers whether this worker has ended the job.
        """
        finished = await self._finish(message, end)
        if finished is None or not finished.applied:
            return False
        self._count(message, end.lease, status)
        await publish_all(self._stores.jobs, self._publisher, finished.promoted, "promoted")
        if end.refund:
            try:
                await self._stores.refunds.pay(REFUNDS)
            except StoreUnavailable:
                # They stay owed, and the API pays (`moderation/carrying.py`).
                metrics.REPAIRED.labels("refund").inc()
        return True

    async def _finish(self, message: JobMessage, end: End) -> Finished | None:
        """The terminal transition; None: the worker drains first.

        A refused transition is tried once more under a new claim. A store that has lost its data
        then rebuilds the record from the message, and the generated images still count.
        """
        finished = await self._retrier.retry_until_drained(lambda: self._endings.end(end))
        if finished is None or finished.applied:
            return finished
        claim = await self._retrier.retry_until_drained(
            lambda: self._stores.jobs.claim(message, self._worker_id)
        )
        if not isinstance(claim, Granted):
            return finished
        log.info("record_rebuilt", job_id=message.job_id)
        return await self._retrier.retry_until_drained(
            lambda: self._endings.end(replace(end, lease=claim.lease))
        )

    async def _succeed(
        self, message: JobMessage, lease: Lease, results: Sequence[ImageResult], hold: Hold
    ) -> bool:
        """Store the images and finish the job.

        Raises `BlobStoreUnavailable` if they cannot be stored in time.
        """
        done = await self._pictures.result(message, lease, results, hold)
        if done is None:
            return await self._gave_up(lease)
        if done.blocked:
            return await self._blocked(message, lease, IMAGES_BLOCKED)
        refs = done.result.images
        with tracing.span("finish"):
            records = self._records(message, done, results)
            shown = {name for ref, name in zip(refs, done.names, strict=True) if ref.shown}
            held = held_images(
                message, refs, done.names, done.drawn, records, self._keep_pictures_s, self._looks
            )
            pictures = tuple(record for record in records if record.name in shown)
            end = End(lease, done.result, self._address(message), pictures, held)
            ended = await self._end(message, JobStatus.SUCCEEDED, end)
        if ended:
            metrics.IMAGES.labels(message.request.model).inc(len(refs))
        return ended

    def _records(
        self, message: JobMessage, done: DoneImages, results: Sequence[ImageResult]
    ) -> tuple[PictureRecord, ...]:
        """What the search index is or will be told of the job: nothing, if no image is embedded."""
        spec = self.bounds.spec
        if not spec.clip:
            return ()
        images = [drawn.image for drawn in results if isinstance(drawn.image, Pixels)]
        # Tenants who share cached results share what is found, but no image that the cache does not have.
        # It has no result with a held image.
        cached = self._address(message) is not None and all(ref.shown for ref in done.result.images)
        own_rules = self._verdicts is not None and not self._verdicts.shares(message.tenant)
        is_shared = self._share_cache and cached and not own_rules
        scope = SHARED if is_shared else message.tenant
        records = picture_records(
            message,
            done.result.images,
            done.names,
            images,
            spec,
            scope,
            self._clock.now(),
            self._keep_pictures_s,
        )
        metrics.EMBEDDINGS.labels("made").inc(len(records))
        metrics.EMBEDDINGS.labels("failed").inc(len(images) - len(records))
        return records

    def _address(self, message: JobMessage) -> str | None:
        """The address of the cached result; None: it is not cached."""
        request = message.request
        # A request for another revision of the model must not find this result.
        if request.cache == "off" or request.model_revision not in ("", self.bounds.spec.revision):
            return None
        return result_address(message.key, request, tenant_scope(message.tenant, self._share_cache))

    def _count(self, message: JobMessage, lease: Lease, status: JobStatus) -> None:
        seconds = max(0.0, self._clock.now() - message.created_at)
        metrics.JOBS_FINISHED.labels(self.bounds.spec.name, status.value).inc()
        metrics.JOB_SECONDS.labels(self.bounds.spec.name).observe(seconds)
        log.info("job_finished", job_id=message.job_id, status=status.value, attempt=lease.attempt)


@contextmanager
def _ending(withdraw: Callable[[], object]) -> Iterator[None]:
    """Withdraw the images of the block, however it ends."""
    try:
        yield
    finally:
        withdraw()


def _tasks(request: GenerationRequest, start: bytes | None, steps: int) -> Iterator[ImageTask]:
    """The task of each image of the request, of `steps` denoising steps each."""
    for index in range(request.num_images):
        yield ImageTask(
            request.prompt,
            request.negative_prompt,
            request.image_seed(index),
            request.num_inference_steps,
            request.guidance_scale,
            start,
            request.strength,
            preview_steps(steps, request.previews) if index == 0 else (),
            steps,
        )


def _ignore(_: Progress) -> None:
    return None


_RETRYABLE = {
    error.code
    for error in vars(failures).values()
    if isinstance(error, type) and issubclass(error, GenerationError) and error.retryable
}
