"""From a job to its message: recorded, published, confirmed (docs/adr/0001-record-first-then-publish.md), and undone where that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api.background import Background
from api.clearing import Clearing
from api.quotas import NothingLeft
from broker.relay import publish_all
from contracts.errors import DarkroomError, QueueFull, StoreFull, UnavailableError
from contracts.jobs import Job, JobMessage, JobResult, NewJob
from contracts.ports import JobStore, Publisher
from telemetry import metrics, tracing
from telemetry.logs import get_logger

log = get_logger(__name__)


@dataclass(slots=True)
class Entry:
    """A recorded job. `lead`: its message must be published now."""

    job: Job
    lead: bool


class Outbox:
    """Records jobs, and publishes the messages of those that lead their key. What it begins for others runs in `background`."""

    def __init__(self, jobs: JobStore, publisher: Publisher, background: Background) -> None:
        self._jobs = jobs
        self._publisher = publisher
        self._background = background
        self._clearing = Clearing(jobs, background)

    async def accept(
        self, new: NewJob, result: JobResult | None, refusal: UnavailableError | None, *, repeats: bool
    ) -> Job:
        """The recorded job, whose message is with the broker where it leads its key. Raises as `recorded` and `Publisher.publish`."""
        async with self.recorded(new, result, refusal, repeats=repeats) as entry:
            if entry.lead:
                await self._publisher.publish(entry.job.message())
        return entry.job

    @asynccontextmanager
    async def recorded(
        self, new: NewJob, result: JobResult | None, refusal: UnavailableError | None, *, repeats: bool
    ) -> AsyncIterator[Entry]:
        """The record of `new`. The block publishes its message, where it leads; one that fails undoes the record. With a `refusal` the
        job may not lead. One that `repeats` is never undone: a copy of the request, in another process, may have published it.

        Raises `NothingLeft` where nothing was recorded or all was undone, and `StoreUnavailable`.
        """
        try:
            with tracing.span("record job", attributes={"darkroom.job_id": new.id}):
                submitted = await self._jobs.submit(new, result, may_lead=refusal is None)
        except QueueFull as error:
            # What costs no computation would have been welcome.
            raise NothingLeft(refusal or error) from None
        except StoreFull as error:
            raise NothingLeft(error) from None
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

    def publish_later(self, promoted: Sequence[JobMessage], reason: str) -> None:
        """Publish other people's jobs, for which no client must wait. What fails is left to the sweeper."""
        if promoted:
            self._background.start(publish_all(self._jobs, self._publisher, promoted, reason))

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
