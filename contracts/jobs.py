"""The job: where it stands, how it ends, and the message that carries it to a worker. What was asked is in `contracts.requests`.

All types are frozen. Those that are stored or sent keep the fields of other versions (`contracts.documents`).
Times are Unix seconds by the job store's clock; the store is the only one that stamps them.

The state machine (enforced by compare-and-set in the job store):

    queued ──claim──▶ running ──finish──▶ succeeded | failed
      ▲                  │
      └────release───────┘           queued, running ──▶ canceled | expired
    queued followers end with their leader, or one of them is promoted to leader.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from contracts.documents import Document, Frozen, Versioned
from contracts.requests import MAX_PREVIEWS, GenerationRequest


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


class CacheStatus(StrEnum):
    HIT = "hit"
    MISS = "miss"
    JOINED = "joined"


class Priority(StrEnum):
    """The class of a job: somebody waits for it, or nobody does."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class ImageRef(Document):
    """One finished picture. `name` is content-addressed: `<sha256 of the bytes>.<extension>`."""

    name: str
    width: int
    height: int
    seed: int
    content_type: str
    size_bytes: int


class Timings(Document):
    """Where the time of a computed job went, in milliseconds; `batch_size` counts images."""

    queued_ms: float
    batch_ms: float
    encode_ms: float
    batch_size: int


class JobResult(Document):
    images: tuple[ImageRef, ...]
    timings: Timings
    warnings: tuple[str, ...] = ()


class JobFailure(Document):
    """A `GenerationError` at rest. `retryable`: the same request may succeed another time."""

    code: str
    message: str
    retryable: bool = False


class Progress(Frozen):
    """How far a running job is: `step` of its `steps` denoising steps are done."""

    step: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=1)]

    @property
    def terminal(self) -> bool:
        return False


class Preview(Frozen):
    """The first picture of a running job as it stands: the `index`th that is shown, by its name in the blob store."""

    index: Annotated[int, Field(ge=0, lt=MAX_PREVIEWS)]
    name: str

    @property
    def terminal(self) -> bool:
        return False


class JobEnd(Document):
    """The end of a job, as a watcher hears it: all that it has changed in the record."""

    status: JobStatus
    finished_at: float
    deadline: float
    started_at: float | None = None
    attempt: int = 0
    sequence: int = 0
    progress: Progress | None = None
    result: JobResult | None = None
    failure: JobFailure | None = None

    @property
    def terminal(self) -> bool:
        return True


Change = JobStatus | Progress | Preview | JobEnd
"""What a watcher of a job hears. An end that another version tells may be its status alone: the record has the rest."""


class Origin(Document):
    """Where a job comes from, for logs and traces alone: the request that submitted it, and its span as a W3C `traceparent`."""

    request_id: str | None = None
    traceparent: str | None = None


NOWHERE: Final = Origin()


class Webhook(Document):
    """Where the job's end is to be told. `url` is canonical; `events` are of `contracts.webhooks.EVENTS`."""

    url: str
    events: tuple[str, ...]


class NewJob(Document):
    """A request at the door: what the store needs to record it. `key` is the 64 hex digits of `cache.cache_key`."""

    id: str
    tenant: str
    key: str
    request: GenerationRequest
    ttl_s: float
    """How long the job may take in all before it ends `expired`."""
    priority: Priority = Priority.INTERACTIVE
    cost: float = 1.0
    """What it asks of the device (`scheduler.fairness.cost_of`)."""
    weight: float = 1.0
    """What its flow's share of the device is in proportion to (`scheduler.fairness.weight_of`)."""
    origin: Origin = NOWHERE
    webhook: Webhook | None = None


class Envelope(Versioned):
    """What a message of any version says: whose it is, and who may act on it."""

    job_id: str


class JobMessage(Envelope):
    """What the broker carries: the whole job, so that a worker needs nothing else to run it."""

    tenant: str
    key: str
    request: GenerationRequest
    created_at: float
    deadline: float
    priority: Priority = Priority.INTERACTIVE
    origin: Origin = NOWHERE
    webhook: Webhook | None = None


class Job(Frozen):
    """A job record as the store holds it."""

    id: str
    tenant: str
    key: str
    request: GenerationRequest
    status: JobStatus
    cache: CacheStatus
    created_at: float
    deadline: float
    started_at: float | None = None
    finished_at: float | None = None
    attempt: int = 0
    result: JobResult | None = None
    failure: JobFailure | None = None
    priority: Priority = Priority.INTERACTIVE
    tag: float = 0.0
    """Its place in the fair order of its model's queue (`scheduler.fairness`)."""
    sequence: int = 0
    """Counts the changes of status and progress; never steps back while the record lives."""
    progress: Progress | None = None
    origin: Origin = NOWHERE
    webhook: Webhook | None = None

    def ended(self, end: JobEnd) -> Job:
        """This job as its end has left it."""
        return self.model_copy(update={name: getattr(end, name) for name in JobEnd.model_fields})

    def message(self) -> JobMessage:
        return JobMessage(
            min_schema=self.request.min_schema,
            job_id=self.id,
            tenant=self.tenant,
            key=self.key,
            request=self.request,
            created_at=self.created_at,
            deadline=self.deadline,
            priority=self.priority,
            origin=self.origin,
            webhook=self.webhook,
        )


class Lease(Frozen):
    """A worker's right to finish a job. `attempt` is the fence: a later claim makes an earlier lease void."""

    job_id: str
    attempt: int
    started_at: float
    """When the first attempt began."""
    claimed_at: float
    """When this attempt began."""
    deadline: float
    """By when the job must have ended, by the clock of `claimed_at`. A message may hold one of before the clock was set."""
