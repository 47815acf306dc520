"""The port of the job store. `contracts.transitions` has its arguments and answers.

Every coroutine raises `contracts.errors.StoreUnavailable` when the store is away or slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from contracts.jobs import Job, JobFailure, JobMessage, JobResult, JobStatus, Lease, NewJob, Preview
from contracts.transitions import Claim, End, EndAnswer, Finished, Submission, SubmitAnswer, Submitted, Taken


class JobStore(Protocol):
    """Job records, single-flight and the outbox. Every transition is atomic.

    The store's clock stamps all times, so skewed clocks of callers do no harm.
    A leader stays in the outbox from `submit` (or its promotion) until `confirm`. A leader that stays too
    long is published again.
    """

    @property
    def shards(self) -> Sequence[str]:
        """One digit per shard.

        A job is in the shard of its id's last digit. Any of its digits names a shard.
        """
        ...

    async def submit(
        self, new: NewJob, result: JobResult | None = None, *, may_lead: bool = True
    ) -> Submitted:
        """Record a job.

        With `result` (a cache hit) the new job is `succeeded`. Otherwise it leads its key, follows the live
        leader, or is `succeeded` with the result of a flight that has just landed. Recording the same id
        again returns the existing record, with `lead` true while it is unconfirmed.

        Raises `QueueFull` and records nothing if the job would have to lead and `may_lead` is false. A job
        that needs no computation is always accepted.
        """
        ...

    async def submit_many(self, submissions: Sequence[Submission]) -> Sequence[SubmitAnswer]:
        """Record jobs, with one call per shard. Returns one answer per job, in order.

        An error (`StoreFull`, `StoreUnavailable`, `RecordUnreadable` or an unexpected one) concerns one job
        alone, and is returned, not raised.
        """
        ...

    async def confirm(self, job_id: str) -> None:
        """Remove the job from the outbox: the broker has confirmed its message."""
        ...

    async def confirm_many(self, job_ids: Sequence[str]) -> None:
        """Like `confirm`, for several jobs in one call."""
        ...

    async def withdraw(self, job_id: str) -> Finished:
        """Undo the `submit` of a leader whose message could not be published.

        The record is removed, and a follower is promoted if there is one. Refused (`applied` false) once a
        worker has claimed the job.
        """
        ...

    async def get(self, tenant: str, job_id: str) -> Job:
        """The record of one of the tenant's jobs.

        Raises `JobNotFound`, also for another tenant's job, and `JobGone` for an id older than the retention.
        """
        ...

    async def owner(self, job_id: str) -> str | None:
        """The tenant of a job; None: there is no record. For operators only."""
        ...

    async def statuses(self, job_ids: Sequence[str]) -> Sequence[JobStatus | None]:
        """The status of each job, of any tenant; None: there is no record."""
        ...

    async def list(self, tenant: str, limit: int, before: str | None = None) -> Sequence[Job]:
        """The tenant's jobs, newest first, at most `limit`, older than the job id `before`."""
        ...

    async def take(self, model: str, worker_id: str, limit: int) -> Taken:
        """Claim up to `limit` waiting jobs of the model, smallest fair tag first (`scheduler.fairness`).

        Each is claimed for one attempt. The answer may hold fewer jobs than wait while other workers take
        jobs too.
        """
        ...

    async def claim(self, message: JobMessage, worker_id: str, *, leave_waiting: bool = False) -> Claim:
        """Claim the job of a message for one attempt.

        A record that the store has lost is rebuilt from the message. A live lease of another attempt answers
        `Busy`; a lapsed one is taken over under the next attempt number. A job past its deadline ends
        `expired`. A job without attempts left ends `failed`, with its last fault or `attempts_exhausted`.
        With `leave_waiting`, a job that waits in the queue is left to `take` and answers `Busy`.
        """
        ...

    async def renew(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Extend leases. Returns the void ones (fenced off, canceled, expired): stop work on those jobs."""
        ...

    async def release(self, lease: Lease, *, fault: JobFailure | None = None) -> bool:
        """Return a claimed job to `queued` (drain, requeue).

        The attempt counts if a `fault` ended it. If it was the last attempt, the job fails with `fault`.
        """
        ...

    async def progress(self, lease: Lease, step: int, steps: int) -> bool:
        """Record that `step` of `steps` denoising steps are done, and notify watchers of the job or of its
        first followers. Returns whether the lease still holds; if not, stop work on the job."""
        ...

    async def preview(self, lease: Lease, preview: Preview) -> bool:
        """Notify watchers of the job or of its first followers of a preview. The event is not kept.

        Returns whether the lease still holds.
        """
        ...

    async def end_many(self, ends: Sequence[End]) -> Sequence[EndAnswer]:
        """End active jobs, each under its own fence, with one call per shard.

        Returns one answer per job, in order, as `succeed`, `fail` and `expire` do. An error concerns one job
        alone, and is returned, not raised. Watchers receive each end with its changes (`JobEnd`). A result
        that finds no room in the cache is no failure.
        """
        ...

    async def succeed(self, lease: Lease, result: JobResult) -> Finished:
        """End the job `succeeded` under its fence. All followers succeed in the same step."""
        ...

    async def fail(self, lease: Lease, failure: JobFailure) -> Finished:
        """End the job `failed` under its fence.

        The oldest follower is promoted, at most twice per flight. After that all followers fail too, so a
        poisonous prompt that was submitted a thousand times costs three computations.
        """

    async def expire(self, lease: Lease) -> Finished:
        """End the job `expired` under its fence: the worker has not begun it and cannot finish it in time."""
        ...

    async def cancel(self, tenant: str, job_id: str) -> tuple[Job, Finished]:
        """End a job `canceled`.

        A terminal job stays as it is. The key of a canceled leader passes to a follower.
        """
        ...

    async def sweep(self, shard: str, limit: int) -> tuple[Sequence[JobMessage], Sequence[JobMessage]]:
        """Bounded housekeeping of one shard: jobs past their deadline end `expired`.

        Returns `(stale, promoted)`; publish both. `stale` are leaders that stayed unconfirmed in the outbox, or
        whose worker and message are both gone. `promoted` are followers promoted by an expiry.
        """
        ...

    async def steady(self, shard: str, elapsed_s: float | None) -> float:
        """Correct the times of a shard if the store's clock was set. Call it before each `sweep`.

        `elapsed_s` is the time since the last call by a clock that is never set, in seconds; None: unknown. The
        store compares it with its own clock. If that clock was set, back or forward, the store moves the
        shard's deadlines, leases and webhooks by the same amount.

        Returns by how many seconds the clock was set; 0: not at all.
        """
        ...

    async def take_sweeper_lease(self, name: str, lease_s: float) -> bool:
        """Take or renew the sweeper lease for `lease_s` seconds from now.

        Returns whether the process `name` holds it now: it held it before, or nobody did.
        """
        ...

    async def forget_landed(self, keys: Sequence[str]) -> None:
        """Stop answering submits of these keys with the results of landed flights.

        The result cache still answers.
        """
        ...

    async def waiting(self, model: str, job_ids: Sequence[str] = ()) -> tuple[int, Sequence[int | None]]:
        """How many jobs wait for the model, and per id how many are ahead of it;
        None for an id that does not wait."""
        ...

    async def leaders(self, keys: Sequence[str]) -> Sequence[str | None]:
        """Per key, the id of the job that computes it or was the last to compute it; None: there is none."""
        ...

    async def ahead(self, model: str, flow: str) -> int:
        """How many waiting jobs of the model would be ahead of the next job of `flow`
        (`scheduler.fairness`)."""
        ...
