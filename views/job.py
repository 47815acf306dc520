"""A job as its owner sees it, in the API's answers and in webhooks: the wire models, and how a
record becomes one. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.jobs import CacheStatus, ImageRef, Job, JobStatus, Priority
from contracts.models import ServedModel
from contracts.moderation import State, Verdict
from contracts.requests import CacheMode, GenerationRequest, OutputFormat
from scheduler.admission import capacity_of, eta_s
from views.warnings import NOBODY, advice


class Wire(BaseModel):
    """The base of all models of answers: immutable."""

    model_config = ConfigDict(frozen=True)


class LoraView(Wire):
    """The adapter that acted on the model, and how strongly."""

    name: str
    scale: float


class RequestView(Wire):
    """The request as it is computed: defaults filled in, the prompt as it was sent, the seed that
    was used."""

    model: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    num_images: int
    output_format: OutputFormat
    output_quality: int
    lossless: bool
    embed_metadata: bool
    cache: CacheMode | Literal["similar"]
    model_revision: str
    lora: LoraView | None = None
    init_image: str | None = Field(
        default=None,
        description="The SHA-256 of the init image, as it was read. No route serves this image.",
    )
    strength: float | None = None
    metadata: dict[str, str] = Field(default={}, description="As it was sent.")


class SimilarView(Wire):
    """What answered a job with `cache: similar`: the prompt that was drawn, and how similar it is, up to 1."""

    prompt: str
    score: float


class ModerationView(Wire):
    """What the content policy says of an image. Scores and sources are for moderators alone."""

    verdict: State = Field(
        description="`in_review`: a person will decide. `released` and `refused`: a person has decided, a model that may, or nobody in time. The image is shown if `passed`, `tagged` or `released`."
    )
    categories: list[str] = Field(description="Of the policy, the gravest first.")
    policy: str = Field(description="Name and version of the policy.")

    @classmethod
    def of(cls, verdict: Verdict) -> ModerationView:
        """What an owner may know of a verdict."""
        return cls(verdict=verdict.state, categories=list(verdict.categories), policy=verdict.policy)


def _absent(value: object) -> bool:
    return value is None


class ImageView(Wire):
    """One image of a job, and where it is."""

    url: str | None = Field(
        description="Null while the image may not be seen: `moderation.verdict` is `in_review`, `blocked` or `refused`."
    )
    width: int
    height: int
    seed: int
    content_type: str
    moderation: ModerationView | None = Field(
        default=None, exclude_if=_absent, description="Absent where no content policy is in force."
    )

    @classmethod
    def of(cls, image: ImageRef) -> ImageView:
        """The view of an image. One that its owner may not see has no address."""
        return cls(
            url=image_url(image.name) if image.shown else None,
            width=image.width,
            height=image.height,
            seed=image.seed,
            content_type=image.content_type,
            moderation=None if image.moderation is None else ModerationView.of(image.moderation),
        )


class TimingsView(Wire):
    """Times of the computation, in milliseconds. `batch_size` is the number of images in the batch."""

    queued_ms: float
    batch_ms: float
    encode_ms: float
    batch_size: int


class ProgressView(Wire):
    """How many denoising steps are done (`step`), of how many (`steps`)."""

    step: int
    steps: int


class JobErrorView(Wire):
    """Why the job failed. `retryable`: the same request may succeed another time."""

    code: str
    message: str
    retryable: bool


class UrlsView(Wire):
    """The addresses of a job, and of what can be done with it."""

    self: str
    events: str
    cancel: str
    webhook: str | None = Field(
        default=None, description="The log of its deliveries; null without a webhook."
    )


class JobView(Wire):
    """A job. Times are Unix seconds. A value that is not known, or not yet, is null."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "job_01hf7yat00f3q8m2k5t9v1x4za7",
                    "status": "succeeded",
                    "created_at": 1700000000.0,
                    "started_at": 1700000000.02,
                    "finished_at": 1700000000.31,
                    "queue_position": None,
                    "eta_seconds": None,
                    "priority": "interactive",
                    "cache": "miss",
                    "request": {
                        "model": "emoji-turbo",
                        "prompt": "a red apple",
                        "negative_prompt": "",
                        "width": 64,
                        "height": 64,
                        "num_inference_steps": 1,
                        "guidance_scale": 0.0,
                        "seed": 7,
                        "num_images": 1,
                        "output_format": "png",
                        "output_quality": 90,
                        "lossless": False,
                        "embed_metadata": False,
                        "cache": "use",
                        "model_revision": "5f1c3a",
                        "metadata": {"order": "17"},
                    },
                    "denoising_steps": 1,
                    "images": [
                        {
                            "url": "/v1/images/" + "0f" * 32 + ".png",
                            "width": 64,
                            "height": 64,
                            "seed": 7,
                            "content_type": "image/png",
                        }
                    ],
                    "timings": {"queued_ms": 20.0, "batch_ms": 280.0, "encode_ms": 1.2, "batch_size": 4},
                    "warnings": [],
                    "error": None,
                    "urls": {
                        "self": "/v1/jobs/job_01hf7yat00f3q8m2k5t9v1x4za7",
                        "events": "/v1/jobs/job_01hf7yat00f3q8m2k5t9v1x4za7/events",
                        "cancel": "/v1/jobs/job_01hf7yat00f3q8m2k5t9v1x4za7/cancel",
                    },
                    "progress": None,
                }
            ]
        }
    )

    id: str
    status: JobStatus
    created_at: float
    started_at: float | None
    finished_at: float | None
    queue_position: int | None = Field(
        description="Jobs ahead in the queue. For a job that joined another: ahead of that one."
    )
    eta_seconds: float | None
    priority: Priority
    cache: CacheStatus | Literal["similar"] = Field(
        description="hit: from the cache; joined: shares another job's computation; similar: from the cache, by a prompt that "
        "means the same."
    )
    request: RequestView
    denoising_steps: int = Field(description="Steps that each image takes, by `strength` and the solver.")
    images: list[ImageView]
    timings: TimingsView | None = Field(
        description="Of the computation; null while there is none, and on a hit."
    )
    warnings: list[str] = Field(description="What was cut or not read, in sentences.")
    error: JobErrorView | None
    urls: UrlsView
    similar: SimilarView | None = Field(default=None, description="Of a similar answer; otherwise null.")
    progress: ProgressView | None = Field(
        default=None, description="Of the running computation, if it takes more than one step."
    )


def cache_word(job: Job) -> str:
    """How the cache answered the job, in one word."""
    similar = job.request.similar
    return "similar" if similar is not None and similar.prompt is not None else job.cache.value


def image_url(name: str) -> str:
    """The address of the image called `name` in the blob store."""
    return f"/v1/images/{name}"


def job_view(job: Job, ahead: int | None, served: ServedModel | None) -> JobView:
    """The view of `job`.

    `ahead` is how many jobs wait before it (None: not known, or it does not wait). `served` is its model
    (None: not known).
    """
    result = job.result
    eta, warnings = None, [*job.request.warnings, *(() if result is None else result.warnings)]
    if ahead is not None and served is not None:
        eta = eta_s(ahead, job.request.steps, capacity_of(served.workers))
        if not served.workers and result is None:
            warnings.append(NOBODY)
    similar = _similar_view(job.request)
    images = [] if result is None else result.images
    # A hit computed nothing. The times in its result are those of the job that did.
    computed = result is not None and job.cache is not CacheStatus.HIT
    self_url = f"/v1/jobs/{job.id}"
    return JobView(
        id=job.id,
        status=job.status,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        queue_position=ahead,
        eta_seconds=None if eta is None else round(eta, 2),
        priority=job.priority,
        cache=job.cache if similar is None else "similar",
        similar=similar,
        request=_request_view(job.request),
        denoising_steps=job.request.steps_taken,
        images=[ImageView.of(image) for image in images],
        timings=(
            TimingsView.model_validate(result.timings, from_attributes=True)
            if result is not None and computed
            else None
        ),
        warnings=[*warnings, *advice(job.request)],
        error=None if job.failure is None else JobErrorView.model_validate(job.failure, from_attributes=True),
        urls=UrlsView(
            self=self_url,
            events=f"{self_url}/events",
            cancel=f"{self_url}/cancel",
            webhook=None if job.webhook is None else f"{self_url}/webhook",
        ),
        progress=None
        if job.progress is None
        else ProgressView.model_validate(job.progress, from_attributes=True),
    )


def _request_view(request: GenerationRequest) -> RequestView:
    view = RequestView.model_validate(request, from_attributes=True)
    return view if request.similar is None else view.model_copy(update={"cache": "similar"})


def _similar_view(request: GenerationRequest) -> SimilarView | None:
    similar = request.similar
    if similar is None or similar.prompt is None or similar.score is None:
        return None
    return SimilarView(prompt=similar.prompt, score=similar.score)
