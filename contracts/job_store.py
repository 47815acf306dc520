"""The port of the job store: what the rooms ask of job records. What goes in and comes out is in `contracts.transitions`.

Every coroutine raises `contracts.errors.StoreUnavailable` when the store is away or slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from contracts.jobs import Job, JobFailure, JobMessage, JobResult, JobStatus, Lease, NewJob, Preview
from contracts.transitions import Claim, End, EndAnswer, Finished, Submission, SubmitAnswer, Submitted, Taken


class JobStore(Protocol):
    """Job records, single-flight and the outbox, with every transition atomic.

    The store's own clock stamps all times, so that skewed clocks of its callers do no harm.
    A leader stays in the outbox from `submit` (or promotion) until `confirm`; what lingers there is published again.
    """

    @property
    def shards(self) -> Sequence[str]:
        """Each shard of the store, by one digit of the ids whose jobs it keeps; any other of its digits names it as well."""
        ...

    async def submit(
        self, new: NewJob, result: JobResult | None = None, *, may_lead: bool = True
    ) -> Submitted:
        """Record a job. With `result` (a cache hit) it is born `succeeded`. Otherwise it leads its key, follows the
        live leader, or is born `succeeded` from a flight that has just landed. Recording the same id again
        answers the existing record, with `lead` as it was while unconfirmed. Raises `QueueFull`, and records nothing,
        for a job that would have to lead and may not: what costs no computation is always welcome."""
        ...

    async def submit_many(self, asked: Sequence[Submission]) -> Sequence[SubmitAnswer]:
        """Record jobs, in one call where they lie in one shard; each is answered for itself, in their order. An error is that job's
        alone (`StoreFull`, `StoreUnavailable`, `RecordUnreadable`, or one that nobody foresaw), and is answered, not raised."""
        ...

    async def confirm(self, job_id: str) -> None:
        """The job's message is safely with the broker: take it out of the outbox."""
        ...

    async def confirm_many(self, job_ids: Sequence[str]) -> None:
        """As `confirm`, for all of them in one call."""
        ...

    async def withdraw(self, job_id: str) -> Finished:
        """Undo the `submit` of a leader whose message could not be published: the record vanishes as if it had never
        been, and a follower, if there is one, is promoted. Refused (`applied` false) once a worker has claimed it."""
        ...

    async def get(self, tenant: str, job_id: str) -> Job:
        """The record. Raises `JobNotFound` or, for an id older than the retention, `JobGone`. Another tenant's job is
        as if it had never been."""
        ...

    async def owner(self, job_id: str) -> str | None:
        """The tenant of a job; None: there is no record. For the operator alone."""
        ...

    async def statuses(self, job_ids: Sequence[str]) -> Sequence[JobStatus | None]:
        """How each job stands, whosever it is; None: there is no record."""
        ...

    async def list(self, tenant: str, limit: int, before: str | None = None) -> Sequence[Job]:
        """The tenant's jobs, newest first, at most `limit`, older than the job id `before`."""
        ...

    async def take(self, model: str, worker_id: str, limit: int) -> Taken:
        """Take up to `limit` of the model's waiting jobs, those with the smallest fair tags first (`scheduler.fairness`),
        each for one attempt. May answer fewer than wait while other workers take as well."""
        ...

    async def claim(self, message: JobMessage, worker_id: str, *, leave_waiting: bool = False) -> Claim:
        """Take the job of a message for one attempt. A record that the store has lost is rebuilt from the message. A live lease of
        another attempt answers `Busy`; a lapsed one is taken over under the next attempt number. A job past its
        deadline ends `expired`; one that has used up its attempts ends `failed` (`attempts_exhausted`, or its last fault). With `leave_waiting`
        a job that waits for its turn is left to `take`, and answers `Busy`."""
        ...

    async def renew(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Extend leases; answers those that are void (fenced off, canceled, expired): stop work on them."""
        ...

    async def release(self, lease: Lease, *, fault: JobFailure | None = None) -> bool:
        """Give a claimed job back to `queued` (drain, requeue). The attempt counts if a `fault` has ended it, and that is what the
        job fails with where it was its last one."""
        ...

    async def progress(self, lease: Lease, step: int, steps: int) -> bool:
        """Note that `step` of `steps` denoising steps are done, and tell it to those who watch the job or one of its
        first followers. Answers whether the lease still holds: if not, stop work on it."""
        ...

    async def preview(self, lease: Lease, preview: Preview) -> bool:
        """Tell those who watch the job or one of its first followers of a preview. Nothing of it is kept: who does not
        listen misses it. Answers whether the lease still holds."""
        ...

    async def end_many(self, ends: Sequence[End]) -> Sequence[EndAnswer]:
        """End jobs in hand, each under its own fence, in one call where they lie in one shard; each is answered for itself, in
        their order, as `succeed`, `fail` and `expire` answer. An error is that job's alone, and is answered, not raised. Those who watch
        hear of each end with what it has changed (`JobEnd`). Nothing fails because a result finds no place in the cache."""
        ...

    async def succeed(self, lease: Lease, result: JobResult) -> Finished:
        """Terminal `succeeded` under the fence; followers succeed with it, all at once."""
        ...

    async def fail(self, lease: Lease, failure: JobFailure) -> Finished:
        """Terminal `failed` under the fence. The oldest follower is promoted, at most twice per flight; after that the
        rest fail alike, so that a poisonous prompt asked for a thousand times costs three computations."""
        ...

    async def expire(self, lease: Lease) -> Finished:
        """Terminal `expired` under the fence: the worker cannot finish the job in time, and has not begun it."""
        ...

    async def cancel(self, tenant: str, job_id: str) -> tuple[Job, Finished]:
        """End a job `canceled`; a terminal one stays as it is. A canceled leader hands its key to a follower."""
        ...

    async def sweep(self, shard: str, limit: int) -> tuple[Sequence[JobMessage], Sequence[JobMessage]]:
        """Bounded housekeeping of one shard: ends jobs past their deadline as `expired`, and answers `(stale, promoted)`:
        leaders that have lingered unconfirmed in the outbox or whose worker and message are both gone, and followers
        promoted by an expiry. Publish both."""
        ...

    async def steady(self, shard: str, elapsed_s: float | None) -> float:
        """Call before each `sweep`. Compares how far the store's clock has gone since the last call with `elapsed_s`, the
        seconds that have passed by a clock that is never set; None: the caller does not know. Where the store's clock was
        set, back or forward, it moves deadlines, leases and webhooks of the shard with it, so that each has as long to go
        as before. Answers by how many seconds the clock was set; 0: not at all."""
        ...

    async def take_sweeper_lease(self, name: str, lease_s: float) -> bool:
        """Whether the process `name` is the one that keeps house, for `lease_s` seconds from now: it was already, or
        nobody is."""
        ...

    async def forget_landed(self, keys: Sequence[str]) -> None:
        """Answer no more submits of these keys from a flight that has landed: only from the result cache, or anew."""
        ...

    async def waiting(self, model: str, job_ids: Sequence[str] = ()) -> tuple[int, Sequence[int | None]]:
        """How many jobs wait for the model, and for each id how many are ahead of it in the fair order (None: it does not)."""
        ...

    async def leaders(self, keys: Sequence[str]) -> Sequence[str | None]:
        """The id of the job that computes each key, or was the last to; None: there is none."""
        ...

    async def ahead(self, model: str, flow: str) -> int:
        """How many waiting jobs of the model would be ahead of the next one of `flow` (`scheduler.fairness`)."""
        ...
