"""The life of one job in a worker: claim, draw, encode, store, finish, fill the cache. In that order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from typing import Final, TypeVar

from broker.relay import publish_all
from cache.stores import Stores
from contracts import errors
from contracts.clock import Clock
from contracts.engine import BatchKey, ImageFault, ImageTask, Pixels
from contracts.errors import GenerationError, StoreUnavailable
from contracts.jobs import (
    GenerationRequest,
    ImageRef,
    JobFailure,
    JobMessage,
    JobResult,
    JobStatus,
    Lease,
    Timings,
)
from contracts.ports import Busy, Ended, Publisher
from telemetry import metrics
from telemetry.logs import get_logger
from worker.batcher import Batcher, Drawn
from worker.encode import Encoded, Encoder
from worker.leases import Leases

T = TypeVar("T")

RETRY_S: Final = (0.1, 0.3, 1.0, 2.0)
LOOK_AGAIN_S: Final = 1.0

log = get_logger(__name__)


class Verdict(StrEnum):
    """What becomes of the message."""

    ACK = "ack"
    REQUEUE = "requeue"


class JobRunner:
    """Runs jobs, many at once, on one event loop."""

    def __init__(
        self,
        worker_id: str,
        stores: Stores,
        publisher: Publisher,
        batcher: Batcher,
        encoder: Encoder,
        leases: Leases,
        clock: Clock,
    ) -> None:
        self._worker_id = worker_id
        self._stores = stores
        self._publisher = publisher
        self._batcher = batcher
        self._encoder = encoder
        self._leases = leases
        self._clock = clock
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Give back what is not being drawn; wait for nobody any more."""
        self._draining.set()
        self._batcher.drain()

    async def run(self, message: JobMessage) -> Verdict:
        """The job to its end, or as far as this worker gets. Raises nothing that a broken job can cause."""
        while not self._draining.is_set():
            claim = await self._insist(lambda: self._stores.jobs.claim(message, self._worker_id))
            match claim:
                case None:
                    return Verdict.REQUEUE
                case Busy(retry_after_s):
                    # Another worker has it, or had: if that one is dead, the lease lapses and the job is ours. Until then
                    # the message stays in our hands, for there may be no other.
                    await self._pause(min(retry_after_s, LOOK_AGAIN_S))
                case Ended(status, promoted):
                    log.info("job_already_ended", job_id=message.job_id, status=status.value)
                    await publish_all(self._stores.jobs, self._publisher, promoted, "promoted")
                    return Verdict.ACK
                case _:
                    return await self._attempt(message, claim.lease)
        return Verdict.REQUEUE

    async def _attempt(self, message: JobMessage, lease: Lease) -> Verdict:
        request = message.request
        key = BatchKey(
            request.model, request.width, request.height, request.num_inference_steps, request.guidance_scale
        )
        images = [
            self._batcher.add(
                key, ImageTask(request.prompt, request.negative_prompt, request.image_seed(index))
            )
            for index in range(request.num_images)
        ]

        def withdraw() -> None:
            for image in images:
                image.cancel()

        with metrics.IN_FLIGHT.labels(request.model).track_inprogress(), self._leases.hold(lease, withdraw):
            outcomes = await asyncio.gather(*images, return_exceptions=True)
            drawn = [each for each in outcomes if isinstance(each, Drawn)]
            if len(drawn) < len(outcomes):
                return await self._gave_up(lease)
            fault = next((each.image for each in drawn if isinstance(each.image, ImageFault)), None)
            if fault is not None:
                return await self._fail(message, lease, fault)
            return await self._succeed(message, lease, drawn)

    async def _gave_up(self, lease: Lease) -> Verdict:
        """The images were withdrawn: the lease is void, and the job none of ours; or the worker drains."""
        if not self._draining.is_set():
            return Verdict.ACK
        released = await self._insist(lambda: self._stores.jobs.release(lease))
        return Verdict.ACK if released is False else Verdict.REQUEUE

    async def _fail(self, message: JobMessage, lease: Lease, fault: ImageFault) -> Verdict:
        failure = JobFailure(code=fault.code, message=fault.message, retryable=fault.code in _RETRYABLE)
        finished = await self._insist(lambda: self._stores.jobs.fail(lease, failure))
        if finished is None:
            return Verdict.REQUEUE
        if finished.applied:
            self._count(message, lease, JobStatus.FAILED)
            await publish_all(self._stores.jobs, self._publisher, finished.promoted, "promoted")
        return Verdict.ACK

    async def _succeed(self, message: JobMessage, lease: Lease, drawn: Sequence[Drawn]) -> Verdict:
        pixels = [each.image for each in drawn if isinstance(each.image, Pixels)]
        files = await asyncio.gather(*(self._encoder.encode(each) for each in pixels))
        names = []
        for file in files:
            name = await self._insist(partial(self._stores.blobs.put, file.data, file.format))
            if name is None:
                return Verdict.REQUEUE
            names.append(name)
        result = JobResult(
            images=tuple(
                _ref(name, each, file, message.request, index)
                for index, (name, each, file) in enumerate(zip(names, pixels, files, strict=True))
            ),
            timings=Timings(
                queued_ms=round((lease.claimed_at - message.created_at) * 1000, 3),
                batch_ms=round(sum({each.batch_ms for each in drawn}), 3),
                encode_ms=round(sum(file.encode_ms for file in files), 3),
                batch_size=max(each.batch_size for each in drawn),
            ),
            warnings=tuple(dict.fromkeys(warning for each in pixels for warning in each.warnings)),
        )
        finished = await self._insist(lambda: self._stores.jobs.succeed(lease, result))
        if finished is None:
            return Verdict.REQUEUE
        if finished.applied:
            self._count(message, lease, JobStatus.SUCCEEDED)
            try:
                await self._stores.results.put(message.key, result)
            except StoreUnavailable:
                # A result that is not cached is computed again when it is asked for.
                metrics.REPAIRED.labels("cache_fill").inc()
        return Verdict.ACK

    def _count(self, message: JobMessage, lease: Lease, status: JobStatus) -> None:
        seconds = max(0.0, self._clock.now() - message.created_at)
        metrics.JOBS_FINISHED.labels(message.request.model, status.value).inc()
        metrics.JOB_SECONDS.labels(message.request.model).observe(seconds)
        log.info("job_finished", job_id=message.job_id, status=status.value, attempt=lease.attempt)

    async def _insist(self, step: Callable[[], Awaitable[T]]) -> T | None:
        """The step's answer, tried again while the store is away; None when the worker drains before it is back."""
        for delay_s in _growing(RETRY_S):
            try:
                return await step()
            except StoreUnavailable as error:
                metrics.REPAIRED.labels("store").inc()
                log.warning("store_away", code=error.code)
            if self._draining.is_set():
                return None
            await self._pause(delay_s)
        raise AssertionError

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._draining.wait()
        except TimeoutError:
            return


_RETRYABLE = {
    each.code
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, GenerationError) and each.retryable
}


def _growing(delays_s: Sequence[float]) -> Iterator[float]:
    yield from delays_s
    while True:
        yield delays_s[-1]


def _ref(name: str, pixels: Pixels, file: Encoded, request: GenerationRequest, index: int) -> ImageRef:
    return ImageRef(
        name=name,
        width=pixels.width,
        height=pixels.height,
        seed=request.image_seed(index),
        content_type=file.content_type,
        size_bytes=len(file.data),
    )
