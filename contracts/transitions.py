"""What the job store is asked for, and what it answers: a job's way from submit to end, as `contracts.job_store.JobStore` moves it."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.jobs import Job, JobFailure, JobMessage, JobResult, JobStatus, Lease, NewJob


@dataclass(frozen=True, slots=True)
class Submitted:
    """Answer to a submit. `lead`: the job leads its key and its message must be published now.
    Otherwise it either follows a leader (`job.cache` is `joined`) or was born terminal. `ahead` is how many jobs were ahead of one that
    leads, where they were counted."""

    job: Job
    lead: bool
    ahead: int | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to be recorded. `address` is where the result cache may have its result (`cache.cache_key.result_address`); None: it is not
    looked up. `most_ahead` is how many jobs may be ahead of it where it has to be computed (`scheduler.admission`); None: any number,
    -1: it may not be computed."""

    new: NewJob
    address: str | None = None
    most_ahead: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The result cache has the result, and nothing was recorded. Where its pictures are still there, submit the job with it; else delete
    it from the cache, and submit without an address."""

    result: JobResult


@dataclass(frozen=True, slots=True)
class TooManyAhead:
    """The job would have to be computed behind `ahead` others, more than it may; None: it may not be computed, and nobody has
    counted. Nothing was recorded."""

    ahead: int | None


SubmitAnswer = Submitted | Found | TooManyAhead | Exception


@dataclass(frozen=True, slots=True)
class End:
    """The end of a job in hand: its result, its failure, or, with None, `expired`. A result is put into the result cache at `address`,
    where there is one."""

    lease: Lease
    outcome: JobResult | JobFailure | None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """The claim was won: run the job, then finish under this lease."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Busy:
    """Another worker holds a live lease; ask again in `retry_after_s` seconds."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The job is terminal already (or ended by this very claim: `expired`, or out of attempts): ack the message.

    `promoted` are followers that lead now and must be published, as after `finish`."""

    status: JobStatus
    promoted: tuple[JobMessage, ...] = ()


Claim = Granted | Busy | Ended


@dataclass(frozen=True, slots=True)
class TakenJob:
    """A job in hand: what to run, the right to finish it, and its fair tag."""

    message: JobMessage
    lease: Lease
    tag: float = 0.0


@dataclass(frozen=True, slots=True)
class Taken:
    """Answer to `take`, in fair order. `promoted` lead now and must be published, as after `finish`."""

    jobs: tuple[TakenJob, ...] = ()
    promoted: tuple[JobMessage, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """Answer to a transition. `applied` is false where the fence refused it (a later claim, or already terminal).
    `promoted` lead their key now: publish them, then `confirm` them."""

    applied: bool
    promoted: tuple[JobMessage, ...] = ()


EndAnswer = Finished | Exception
