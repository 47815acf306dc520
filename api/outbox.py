"""From a job to its message: records the job, publishes its message, clears the outbox
(docs/adr/0001-record-first-then-publish.md). If publishing fails, the record is undone."""

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
from contracts.jobs import Job, JobMessage, JobResult, NewJob
from contracts.ports.job_store import JobStore
from contracts.ports.publisher import Publisher
from contracts.transitions import Found, Submission, SubmitAnswer, Submitted, TooManyAhead
from runtime.grouping import Grouped
from telemetry import metrics, tracing
from telemetry.logs import get_logger

T = TypeVar("T")

MAX_GROUP: Final = 64
"""The most jobs in one call to the store, which does nothing else meanwhile."""

log = get_logger(__name__)


@dataclass(slots=True)
class Entry:
    """A recorded job. `lead`: its message must be published now."""

    job: Job
    lead: bool


class Outbox:
    """Records jobs, and publishes the messages of those that lead their key.

    Jobs that arrive together share a call to the store. Work that no client waits for runs in
    `background`. `redis_timeout_s` bounds a call to the store, in seconds.
    """

    def __init__(
        self, jobs: JobStore, publisher: Publisher, background: Background, redis_timeout_s: float
    ) -> None:
        self._jobs = jobs
        self._publisher = publisher
        self._background = background
        # Time for the call that runs when a job arrives, for the job's own call, and for a connection.
        self._record_s = 2 * redis_timeout_s + QUEUE_S
        self._clearing = OutboxCleaner(jobs, background)
        self._records: Grouped[Submission, Submitted | Found | TooManyAhead] = Grouped(
            self._submit, limit=MAX_GROUP
        )

    async def record(
        self, submission: Submission, refusal: Callable[[int | None], UnavailableError]
    ) -> Submitted | Found:
        """Record the job of `submission`. Returns `Found` if the cache has its result; then nothing was
        recorded.

        `refusal` makes the error for too many jobs ahead, from their number. Raises `NothingLeft`,
        `StoreUnavailable`.
        """
        with tracing.span("record job", attributes={"darkroom.job_id": submission.new.id}):
            try:
                answer = await self._in_time(self._records.add(submission))
            except StoreFull as error:
                raise NothingLeft(error) from None
        if isinstance(answer, TooManyAhead):
            raise NothingLeft(refusal(answer.ahead))
        return answer

    async def record_hit(self, new: NewJob, result: JobResult) -> Submitted:
        """As `hit`, but raises `NothingLeft` if nothing was recorded."""
        try:
            return await self.hit(new, result)
        except StoreFull as error:
            raise NothingLeft(error) from None

    async def hit(self, new: NewJob, result: JobResult) -> Submitted:
        """Record `new` as a job that has ended with `result`. Raises `StoreUnavailable`, `StoreFull`."""
        with tracing.span("record job", attributes={"darkroom.job_id": new.id}):
            return await self._in_time(self._jobs.submit(new, result))

    async def publish(self, submitted: Submitted, *, repeats: bool) -> Job:
        """Publish the message of a recorded job, if it leads its key, and return the job.

        Raises as `entry` and `Publisher.publish`.
        """
        async with self.entry(submitted, repeats=repeats) as entry:
            if entry.lead:
                await self._publisher.publish(entry.job.message())
        return entry.job

    @asynccontextmanager
    async def entry(self, submitted: Submitted, *, repeats: bool) -> AsyncIterator[Entry]:
        """A recorded job, for the block that publishes its message. If the block raises
        `UnavailableError`, the record is undone.

        A job that `repeats` is never undone: a copy of the request in another process may have
        published it. Raises `NothingLeft` if the record was undone.
        """
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
        """Clear the remaining jobs from the outbox at once, in the background."""
        self._clearing.end()

    def publish_later(self, promoted: Sequence[JobMessage], reason: str) -> None:
        """Publish the messages of other tenants' jobs; no client waits for that.

        The sweeper publishes those that fail.
        """
        if promoted:
            self._background.start(publish_all(self._jobs, self._publisher, promoted, reason))

    async def _submit(self, submissions: Sequence[Submission]) -> Sequence[SubmitAnswer]:
        return await self._jobs.submit_many(submissions)

    async def _in_time(self, answer: Coroutine[Any, Any, T]) -> T:
        """The answer of the store, within `_record_s`.

        Without a limit, requests would pile up behind a store that does not answer. Raises
        `StoreUnavailable`; the job may be recorded all the same.
        """
        try:
            async with asyncio.timeout(self._record_s):
                return await answer
        except TimeoutError:
            raise StoreUnavailable("The job store did not answer in time.") from None

    async def _undone(self, job: Job, error: UnavailableError) -> Job:
        """Undo the record of `job`.

        Returns the job if its message has arrived and a worker has it already. Else raises
        `NothingLeft`, or `error` if it is not known whether the record is undone.
        """
        log.warning("publish_failed", job_id=job.id, code=error.code)
        try:
            finished = await self._jobs.withdraw(job.id)
            if not finished.applied:
                return await self._jobs.get(job.tenant, job.id)
        except DarkroomError:
            # The sweeper will publish the job. The client comes again, and joins it.
            metrics.REPAIRED.labels("withdraw").inc()
            raise error from None
        self.publish_later(finished.promoted, "withdrawn")
        raise NothingLeft(error)
