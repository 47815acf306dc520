"""The job: what was asked, where it stands, and the message that carries it to a worker.

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
from typing import Annotated, Final, Literal

from pydantic import Field

from contracts.documents import Document, Frozen, Versioned

DEFAULT_QUALITY: Final = 90
MAX_JPEG_TEXT_BYTES: Final = 60_000
"""A JPEG holds metadata in one segment of 64 KiB: the prompts in it, as UTF-16, have so much; the rest is for the parameters."""
MAX_TEXT_CHARS: Final = 65_536
"""The longest prompt that any setting allows; a worker believes no message that has a longer one."""
MAX_SEED = 2**53 - 1
"""Seeds stay exact in every JSON client (IEEE doubles carry 53 bits)."""
MAX_PREVIEWS: Final = 3


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


OutputFormat = Literal["png", "jpeg", "webp"]
CacheMode = Literal["use", "refresh", "off"]
"""`refresh` computes anew and puts the result into the cache; `off` neither reads nor writes it, and shares nothing."""


def _absent(value: object) -> bool:
    # Not written where it is not given: processes of a version that does not know the field then read on.
    return value is None


def _none_asked(value: object) -> bool:
    return value == 0


def _nothing_said(value: object) -> bool:
    return value == ()


def steps_taken(steps: int, strength: float | None) -> int:
    """How many of the `steps` that a request names are taken from a picture that is noised by `strength`; all, where there is
    none. What a solver makes of them is `contracts.models.StepCounts`' to say."""
    return steps if strength is None else min(int(steps * strength), steps)


class Lora(Document):
    """A low-rank adapter of the model, and how strongly it acts: its change of the weights times `scale`."""

    name: str
    scale: float = 1.0


class GenerationRequest(Versioned):
    """A normalised request: every default filled in, every bound checked, the seed fixed.

    Image `i` of the `num_images` is drawn from seed `(seed + i) % (MAX_SEED + 1)`.
    """

    model: str
    prompt: str
    negative_prompt: str = ""
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    num_images: Annotated[int, Field(ge=1)] = 1
    output_format: OutputFormat = "png"
    output_quality: Annotated[int, Field(ge=1, le=100)] = DEFAULT_QUALITY
    """Of jpeg and of webp that is not lossless; elsewhere it is the default."""
    lossless: bool = False
    """Of webp. PNG always is, JPEG never."""
    embed_metadata: bool = False
    """Whether the file tells the parameters of its picture, the prompt among them."""
    cache: CacheMode = "use"
    model_revision: str = ""
    """Of the model that the request was checked against."""
    lora: Lora | None = Field(default=None, exclude_if=_absent)
    """None also where it would change nothing: at a scale of 0."""
    init_image: str | None = Field(default=None, exclude_if=_absent)
    """The picture to start from: a PNG of the request's size, by its name in the blob store."""
    strength: Annotated[float, Field(gt=0, le=1)] | None = Field(default=None, exclude_if=_absent)
    """How far from `init_image`: the share of the steps that are taken. Given with it, and only then."""
    previews: Annotated[int, Field(ge=0, le=MAX_PREVIEWS)] = Field(default=0, exclude_if=_none_asked)
    """How often, at most, the first picture is shown while it is made. Changes nothing about the result."""
    warnings: tuple[str, ...] = Field(default=(), exclude_if=_nothing_said)
    """What its owner should know of how it was read. Changes nothing about the result."""
    denoising_steps: Annotated[int, Field(ge=1)] | None = Field(default=None, exclude_if=_absent)
    """Denoising steps of one image, where the model's solver takes another number than the request names."""

    @property
    def steps(self) -> int:
        """Denoising steps of all images together."""
        return self.num_images * self.steps_taken

    @property
    def steps_taken(self) -> int:
        """Denoising steps of one image."""
        return self.denoising_steps or steps_taken(self.num_inference_steps, self.strength)

    def image_seed(self, index: int) -> int:
        return (self.seed + index) % (MAX_SEED + 1)


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
    """A request at the door: what the store needs to record it. `key` is the 64 hex digits of `cache.keys`."""

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
