"""Arguments and answers of the job store: a job's transitions from submit to end
(`contracts.ports.job_store.JobStore`)."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.jobs import Job, JobFailure, JobMessage, JobResult, JobStatus, Lease, NewJob
from contracts.pictures import PictureRecord
from contracts.reviews import HeldImage


@dataclass(frozen=True, slots=True)
class Submitted:
    """Answer to a submit.

    `lead`: the job leads its key, and its message must be published now. Otherwise it follows a leader
    (`job.cache` is `joined`) or is already terminal. `ahead` is how many jobs were ahead of a leader, where
    they were counted.
    """

    job: Job
    lead: bool
    ahead: int | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to record.

    `address` is where the result cache may have its result (`cache.cache_key.result_address`); None: no
    lookup. `most_ahead` is how many jobs may be ahead of it if it must be computed (`scheduler.admission`);
    None: any number, -1: it may not be computed.
    """

    new: NewJob
    address: str | None = None
    most_ahead: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The result cache has the result. Nothing was recorded.

    If the images still exist, submit the job with the result. Otherwise delete the result from the cache
    and submit without an address.
    """

    result: JobResult


@dataclass(frozen=True, slots=True)
class TooManyAhead:
    """The job would have to be computed, with more jobs ahead than it allows. Nothing was recorded.

    `ahead` is how many; None: the job may not be computed at all, and nothing was counted.
    """

    ahead: int | None


SubmitAnswer = Submitted | Found | TooManyAhead | Exception


@dataclass(frozen=True, slots=True)
class End:
    """The end of an active job: its result, its failure, or, with None, `expired`.

    A result is stored in the result cache at `address`, if there is one. `pictures` are the images of a
    result that have an embedding. They are recorded for the search index
    (`contracts.ports.picture_outbox.PictureOutbox`). The store stamps their times: it keeps the distance of
    `expires_at` from `created_at`. `held` are the images of the result that wait for a person or were released by one, each with
    the review that is recorded (`contracts.ports.review_store.ReviewStore`). `refund`: how many
    images the key of a blocked job is owed, and those of the jobs that joined it and fail with it
    (`contracts.ports.refunds.Refunds`).
    """

    lease: Lease
    outcome: JobResult | JobFailure | None
    address: str | None = None
    pictures: tuple[PictureRecord, ...] = ()
    held: tuple[HeldImage, ...] = ()
    refund: int = 0


@dataclass(frozen=True, slots=True)
class Granted:
    """The claim succeeded: run the job, then end it under this lease."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Busy:
    """Another worker holds a live lease; ask again in `retry_after_s` seconds."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The job is terminal, or this claim ended it (`expired`, or out of attempts): ack the message.

    `promoted` are followers that lead now. They must be published, as after `Finished`.
    """

    status: JobStatus
    promoted: tuple[JobMessage, ...] = ()


Claim = Granted | Busy | Ended


@dataclass(frozen=True, slots=True)
class TakenJob:
    """A job claimed by `take`: its message, the lease to end it under, and its fair tag."""

    message: JobMessage
    lease: Lease
    tag: float = 0.0


@dataclass(frozen=True, slots=True)
class Taken:
    """Answer to `take`, in fair order.

    `promoted` followers lead now and must be published, as after `Finished`.
    """

    jobs: tuple[TakenJob, ...] = ()
    promoted: tuple[JobMessage, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """Answer to a transition.

    `applied` is false where the fence refused it: a later claim exists, or the job is already terminal.
    `promoted` followers lead their key now: publish them, then `confirm` them.
    """

    applied: bool
    promoted: tuple[JobMessage, ...] = ()


EndAnswer = Finished | Exception
