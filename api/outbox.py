"""From a job to its message: recorded, published, cleared (docs/adr/0001-record-first-then-publish.md), and undone where that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from api.background import Background
from api.outbox_cleaner import OutboxCleaner
from api.quotas import NothingLeft
from backends.redis_client import QUEUE_S
from broker.relay import publish_all
from contracts.errors import DarkroomError, StoreFull, StoreUnavailable, UnavailableError
from contracts.grouping import Grouped
from contracts.job_store import JobStore
from contracts.jobs import Job, JobMessage, JobResult, NewJob
from contracts.ports import Publisher
from contracts.transitions import Found, Submission, SubmitAnswer, Submitted, TooManyAhead
from telemetry import metrics, tracing
from telemetry.logs import get_logger

T = TypeVar("T")

MAX_GROUP: Final = 64
"""Jobs in one call: the store does nothing else meanwhile."""

log = get_logger(__name__)


@dataclass(slots=True)
class Entry:
    """A recorded job. `lead`: its message must be published now."""

    job: Job
    lead: bool


class Outbox:
    """Records jobs, and publishes the messages of those that lead their key. Jobs that meet share a call to the store. What it begins for
    others runs in `background`. `redis_timeout_s` bounds a call to the store."""

    def __init__(
        self, jobs: JobStore, publisher: Publisher, background: Background, redis_timeout_s: float
    ) -> None:
        self._jobs = jobs
        self._publisher = publisher
        self._background = background
        # The call that is on its way when a job comes, its own, and the wait for a connection.
        self._record_s = 2 * redis_timeout_s + QUEUE_S
        self._clearing = OutboxCleaner(jobs, background)
        self._records: Grouped[Submission, Submitted | Found | TooManyAhead] = Grouped(
            self._submit, limit=MAX_GROUP
        )

    async def record(
        self, asked: Submission, refusal: Callable[[int | None], UnavailableError]
    ) -> Submitted | Found:
        """The recorded job, or its result where the cache has it: then nothing was recorded. `refusal` says why too many are ahead.
        Raises `NothingLeft`, `StoreUnavailable`."""
        with tracing.span("record job", attributes={"darkroom.job_id": asked.new.id}):
            try:
                answer = await self._in_time(self._records.add(asked))
            except StoreFull as error:
                raise NothingLeft(error) from None
        if isinstance(answer, TooManyAhead):
            raise NothingLeft(refusal(answer.ahead))
        return answer

    async def record_hit(self, new: NewJob, result: JobResult) -> Submitted:
        """As `hit`, but raises `NothingLeft` where nothing was recorded."""
        try:
            return await self.hit(new, result)
        except StoreFull as error:
            raise NothingLeft(error) from None

    async def hit(self, new: NewJob, result: JobResult) -> Submitted:
        """The recorded job, which has its result. Raises `StoreUnavailable`."""
        with tracing.span("record job", attributes={"darkroom.job_id": new.id}):
            return await self._in_time(self._jobs.submit(new, result))

    async def publish(self, submitted: Submitted, *, repeats: bool) -> Job:
        """The job, once its message is with the broker, where it leads its key. Raises as `entry` and `Publisher.publish`."""
        async with self.entry(submitted, repeats=repeats) as entry:
            if entry.lead:
                await self._publisher.publish(entry.job.message())
        return entry.job

    @asynccontextmanager
    async def entry(self, submitted: Submitted, *, repeats: bool) -> AsyncIterator[Entry]:
        """A recorded job. The block publishes its message, where it leads; one that fails undoes the record. One that `repeats` is never
        undone: a copy of the request, in another process, may have published it. Raises `NothingLeft` where the record was undone."""
        entry = Entry(submitted.job, submitted.lead)
        try:
            yield entry
        except UnavailableError as error:
            if repeats:
                raise
            entry.job = await self._undone(entry.job, error)
        else:
            if entry.lead:
                self._clearing.add(entry.job.id)

    def end(self) -> None:
        """What is still to be cleared is cleared at once, in the background."""
        self._clearing.end()

    def publish_later(self, promoted: Sequence[JobMessage], reason: str) -> None:
        """Publish other people's jobs, for which no client must wait. What fails is left to the sweeper."""
        if promoted:
            self._background.start(publish_all(self._jobs, self._publisher, promoted, reason))

    async def _submit(self, asked: Sequence[Submission]) -> Sequence[SubmitAnswer]:
        return await self._jobs.submit_many(asked)

    async def _in_time(self, answer: Coroutine[Any, Any, T]) -> T:
        """What the store answers. A store that answers nobody must not let those who wait become ever more. Raises `StoreUnavailable`: the
        job may be recorded, if it was on its way."""
        try:
            async with asyncio.timeout(self._record_s):
                return await answer
        except TimeoutError:
            raise StoreUnavailable("The job store did not answer in time.") from None

    async def _undone(self, job: Job, error: UnavailableError) -> Job:
        """The job, where its message did arrive and a worker was quicker. Else raises `NothingLeft`, or `error` where it is not known
        whether anything is left."""
        log.warning("publish_failed", job_id=job.id, code=error.code)
        try:
            finished = await self._jobs.withdraw(job.id)
            if not finished.applied:
                return await self._jobs.get(job.tenant, job.id)
        except DarkroomError:
            # The sweeper will publish it; the client comes again and joins it.
            metrics.REPAIRED.labels("withdraw").inc()
            raise error from None
        self.publish_later(finished.promoted, "withdrawn")
        raise NothingLeft(error)
