"""The job: its status, how it ends, and the message that carries it to a worker.

`contracts.requests` has the request itself. All types are frozen. Stored and sent types keep the fields
of other versions (`contracts.documents`). Times are Unix seconds; only the job store's clock stamps them.

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
from contracts.moderation import Verdict
from contracts.requests import MAX_PREVIEWS, GenerationRequest


def _absent(value: object) -> bool:
    # An absent value is not written, so processes of a version without this field can read the document.
    return value is None


def _empty(value: object) -> bool:
    return value == ""


class JobStatus(StrEnum):
    """The state of a job, as in the diagram above."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


class CacheStatus(StrEnum):
    """How the result cache answered a job: from a result, by computing, or by joining a running job."""

    HIT = "hit"
    MISS = "miss"
    JOINED = "joined"


class Priority(StrEnum):
    """The priority class of a job: interactive if somebody waits for it, else batch."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class ImageRef(Document):
    """One finished image. `name` is content-addressed: `<sha256 of the bytes>.<extension>`.

    An image that is held has the prefix `held/`, which no public route serves. One that is blocked or
    refused is not stored, and its name is empty.
    """

    name: str
    width: int
    height: int
    seed: int
    content_type: str
    size_bytes: int
    moderation: Verdict | None = Field(default=None, exclude_if=_absent)
    """What moderation says of the image. None: no policy looked at it."""
    drawn: str = Field(default="", exclude_if=_empty)
    """Of an image that people have released: its name before it was signed, where that is another one."""

    @property
    def decided_as(self) -> str:
        """The name by which people's decisions on the image are kept."""
        return self.drawn or self.name

    @property
    def shown(self) -> bool:
        """Whether the image may be seen by its owner."""
        return self.moderation is None or self.moderation.shown


class Timings(Document):
    """Where the time of a computed job went, in milliseconds. `batch_size` counts images."""

    queued_ms: float
    batch_ms: float
    encode_ms: float
    batch_size: int


class JobResult(Document):
    """The result of a succeeded job."""

    images: tuple[ImageRef, ...]
    timings: Timings
    warnings: tuple[str, ...] = ()


class JobFailure(Document):
    """A stored `GenerationError`. `retryable`: the same request may succeed another time."""

    code: str
    message: str
    retryable: bool = False


class Progress(Frozen):
    """The progress of a running job: `step` of its `steps` denoising steps are done."""

    step: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=1)]

    @property
    def terminal(self) -> bool:
        """Never: the job still runs."""
        return False


class Preview(Frozen):
    """A preview of a running job's first image: number `index`, under its `name` in the blob store."""

    index: Annotated[int, Field(ge=0, lt=MAX_PREVIEWS)]
    name: str

    @property
    def terminal(self) -> bool:
        """Never: the job still runs."""
        return False


class Moderated(Frozen):
    """People, or a scan, have decided on images of an ended job: its record has changed, to `sequence`."""

    sequence: int

    @property
    def terminal(self) -> bool:
        """Never: it follows the end."""
        return False


class JobEnd(Document):
    """The end of a job as watchers receive it: every change of the record."""

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
        """Always: the job has ended."""
        return True


Change = JobStatus | Progress | Preview | JobEnd | Moderated
"""What a watcher of a job receives.

Another version may send the end as a bare status: the record has the rest.
"""


class Origin(Document):
    """Where a job comes from: for logs and traces its request id, and its span as a W3C `traceparent`; for
    refunds its key."""

    request_id: str | None = None
    traceparent: str | None = None
    key_id: str | None = Field(default=None, exclude_if=_absent)
    """The API key whose images of the day the job counts against. None: it has no such limit."""


NOWHERE: Final = Origin()


class Webhook(Document):
    """Where to deliver the job's end.

    `url` is canonical. `events` are some of `contracts.webhooks.EVENTS`.
    """

    url: str
    events: tuple[str, ...]


class NewJob(Document):
    """A job that the API asks the store to record. `key` is the 64 hex digits of `cache.cache_key`."""

    id: str
    tenant: str
    key: str
    request: GenerationRequest
    ttl_s: float
    """The job's total time in seconds. After it, the job ends `expired`."""
    priority: Priority = Priority.INTERACTIVE
    cost: float = 1.0
    """The work that the job costs on the device (`scheduler.fairness.cost_of`)."""
    weight: float = 1.0
    """The weight of the job's flow: its share of the device is in proportion
    (`scheduler.fairness.weight_of`)."""
    origin: Origin = NOWHERE
    webhook: Webhook | None = None


class Envelope(Versioned):
    """What messages of every version have: the job's id and who may act on it."""

    job_id: str


class JobMessage(Envelope):
    """The message on the broker. It holds the whole job, so a worker can run it from the message alone."""

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
    """The job's position in the fair order of its model's queue (`scheduler.fairness`)."""
    sequence: int = 0
    """Counts changes of status and progress. It never decreases while the record lives."""
    progress: Progress | None = None
    origin: Origin = NOWHERE
    webhook: Webhook | None = None

    @property
    def in_review(self) -> bool:
        """Whether an image of the job waits for a person."""
        return self.result is not None and any(
            image.moderation is not None and image.moderation.state == "in_review"
            for image in self.result.images
        )

    def ended(self, end: JobEnd) -> Job:
        """This job with the changes of `end` applied."""
        return self.model_copy(update={name: getattr(end, name) for name in JobEnd.model_fields})

    def message(self) -> JobMessage:
        """The message that carries this job to a worker."""
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
    """A worker's right to finish a job. `attempt` is the fence: a later claim voids an earlier lease."""

    job_id: str
    attempt: int
    started_at: float
    """When the first attempt started."""
    claimed_at: float
    """When this attempt started."""
    deadline: float
    """When the job must have ended, by the clock of `claimed_at`.

    The message's deadline may predate a clock change.
    """
