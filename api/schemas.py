"""The wire models: what a client may send and what it gets back. Shapes only; bounds live in `api.normalise`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.jobs import CacheStatus, JobStatus, Priority
from contracts.requests import CacheMode, OutputFormat
from contracts.webhooks import EVENTS


class WebhookRequest(BaseModel):
    """Where the end of the job is told, signed by Standard Webhooks, for three days until a 2xx answers."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    url: str = Field(
        description="Reachable from the internet, over https.", examples=["https://example.com/hook"]
    )
    events: Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        default=None, description=f"Of {', '.join(EVENTS)}; by default all.", examples=[list(EVENTS)]
    )


class LoraRequest(BaseModel):
    """A low-rank adapter of the model; `GET /v1/models` names those that each model has."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(description="One of the model's `loras`.", examples=["pixel"])
    scale: float | None = Field(
        default=None, description="How strongly it acts, 0 to 2; by default 1. At 0 it does nothing."
    )


class JobRequest(BaseModel):
    """The body of `POST /v1/jobs`. Types are strict, unknown fields refused; null means "not given"."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        frozen=True,
        json_schema_extra={"examples": [{"prompt": "a red apple", "seed": 7}]},
    )

    prompt: str = Field(description="What the picture should show. (x:1.5) and <lora:x:1> are plain letters.")
    model: str | None = Field(default=None, description="One of `GET /v1/models`; by default the platform's.")
    negative_prompt: str | None = Field(default=None, description="Not to show. Read if guidance_scale > 1.")
    width: int | None = Field(default=None, description="Pixels, within the model's limits.")
    height: int | None = Field(default=None, description="Pixels, within the model's limits.")
    num_inference_steps: int | None = Field(default=None, description="Denoising steps.")
    guidance_scale: float | None = Field(default=None, description="Classifier-free guidance; 0 to 1: off.")
    seed: int | Literal["random"] | None = Field(
        default=None,
        description="0 to 2^53 - 1. By default derived from the request, so that equal requests get equal "
        'pictures; "random" asks for a new one.',
    )
    num_images: int | None = Field(default=None, description="Pictures to draw, from consecutive seeds.")
    priority: Literal["interactive", "batch"] | None = Field(
        default=None,
        description="batch: nobody waits for it; it yields to interactive jobs, and keeps a ninth of the device.",
    )
    timeout_seconds: float | None = Field(
        default=None,
        description="The job expires, and costs nothing, if it has not ended by then. By default and at most the platform's limit.",
    )
    output_format: OutputFormat | None = Field(
        default=None, description="Of the files; by default what `Accept` names, else the platform's own."
    )
    output_quality: int | None = Field(
        default=None, description="1 to 100, of jpeg and webp; by default 90. PNG does not read it."
    )
    lossless: bool | None = Field(default=None, description="WebP without loss.")
    embed_metadata: bool | None = Field(
        default=None,
        description="Write the parameters, the prompt among them, into the file: as the PNG text `parameters`, or as Exif "
        "in jpeg and webp. By default a file holds nothing but its picture.",
    )
    cache: CacheMode | None = Field(
        default=None,
        description="use (by default): answer from the cache where it can; refresh: compute anew, and put the result into the "
        "cache; off: neither read nor write it, and share nothing.",
    )
    webhook: WebhookRequest | None = Field(default=None, description="Where the end of the job is told.")
    lora: LoraRequest | None = Field(
        default=None, description="An adapter of the model that acts on its weights."
    )
    init_image: str | None = Field(
        default=None,
        description="A picture to start from: PNG, JPEG or WebP in base64, alone or as a data URL. Turned upright, in sRGB by its "
        "colour profile, on white, scaled to cover the size that is drawn, and cut at its centre.",
    )
    strength: float | None = Field(
        default=None,
        description="How far from `init_image`, above 0 to 1: the share of the steps that are taken. By default 0.8.",
    )
    previews: int | None = Field(
        default=None, description="0 to 3: how often the job's events show its first picture in the making."
    )


EXPECTED: Final = {
    "prompt": "a string",
    "model": "a string",
    "negative_prompt": "a string",
    "width": "an integer",
    "height": "an integer",
    "num_inference_steps": "an integer",
    "guidance_scale": "a finite number",
    "seed": 'an integer or "random"',
    "num_images": "an integer",
    "priority": '"interactive" or "batch"',
    "timeout_seconds": "a finite number",
    "output_format": "png, jpeg or webp",
    "output_quality": "an integer",
    "lossless": "true or false",
    "embed_metadata": "true or false",
    "cache": "use, refresh or off",
    "webhook": "an object with a url",
    "webhook.url": "a string",
    "webhook.events": "a list of names of events",
    "init_image": "a string",
    "strength": "a finite number",
    "previews": "an integer",
    "lora": "an object with a name",
    "lora.name": "a string",
    "lora.scale": "a finite number",
}
"""What each field of `JobRequest` must be, in the words of an error message."""


class Wire(BaseModel):
    model_config = ConfigDict(frozen=True)


class LoraView(Wire):
    name: str
    scale: float


class RequestView(Wire):
    """The request as it is computed: defaults filled in, the prompt as it was sent, the seed that was used."""

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
    cache: CacheMode
    model_revision: str
    lora: LoraView | None = None
    init_image: str | None = Field(
        default=None,
        description="The picture that it started from, as it was read: its SHA-256. No route serves it.",
    )
    strength: float | None = None


class ImageView(Wire):
    url: str
    width: int
    height: int
    seed: int
    content_type: str


class TimingsView(Wire):
    """Milliseconds; `batch_size` counts the images that shared the batch."""

    queued_ms: float
    batch_ms: float
    encode_ms: float
    batch_size: int


class ProgressView(Wire):
    """`step` of `steps` denoising steps are done."""

    step: int
    steps: int


class JobErrorView(Wire):
    """Why the job failed. `retryable`: the same request may succeed another time."""

    code: str
    message: str
    retryable: bool


class UrlsView(Wire):
    self: str
    events: str
    cancel: str
    webhook: str | None = Field(
        default=None, description="The log of its deliveries; null without a webhook."
    )


class JobView(Wire):
    """A job. Times are Unix seconds; what is not known (yet) is null."""

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
        description="Jobs ahead in the queue; of a job that joined another, ahead of that one."
    )
    eta_seconds: float | None
    priority: Priority
    cache: CacheStatus = Field(description="hit: from the cache; joined: shares another job's computation.")
    request: RequestView
    denoising_steps: int = Field(description="Steps that each image takes, by `strength` and the solver.")
    images: list[ImageView]
    timings: TimingsView | None = Field(
        description="Of the computation; null while there is none, and on a hit."
    )
    warnings: list[str] = Field(description="What was cut or not read: sentences for people.")
    error: JobErrorView | None
    urls: UrlsView
    progress: ProgressView | None = Field(
        default=None, description="Of the running computation, where the model takes more than one step."
    )


class StatusEvent(Wire):
    """Event `status`: where the job stands now. The stream ends after a terminal one."""

    id: str
    status: JobStatus
    queue_position: int | None
    eta_seconds: float | None
    started_at: float | None
    finished_at: float | None
    error: JobErrorView | None


class OutputEvent(Wire):
    """Event `output`: the pictures of a job that succeeds; a terminal `status` follows."""

    id: str
    cache: CacheStatus
    images: list[ImageView]
    timings: TimingsView | None
    warnings: list[str]


class JobList(Wire):
    """One page, newest first. `next_cursor` goes into `after`; null on the last page."""

    data: list[JobView]
    next_cursor: str | None


class ModelView(Wire):
    """A served model in the shape of OpenAI's list, with its limits and defaults."""

    id: str
    object: Literal["model"] = "model"
    aliases: list[str] = Field(description="Other names that requests may use for it.")
    created: int | None
    owned_by: str
    description: str
    revision: str
    dtype: str
    attention: str
    default_width: int
    default_height: int
    size_multiple: int
    min_size: int
    max_size: int
    max_pixels: int
    default_num_inference_steps: int
    max_num_inference_steps: int
    refused_num_inference_steps: list[int] = Field(description="Counts that the solver cannot take.")
    default_guidance_scale: float
    max_guidance_scale: float
    max_prompt_tokens: int
    max_num_images: int
    init_images: bool = Field(description="Whether a request may give a picture to start from.")
    loras: list[str] = Field(description="The adapters that a request may name.")
    live_workers: int
    images_per_s: float


class ModelList(Wire):
    object: Literal["list"] = "list"
    data: list[ModelView]


class Ready(Wire):
    status: Literal["ready"] = "ready"
    checks: dict[str, str] = Field(examples=[{"broker": "ok", "store": "ok"}])


class Health(Wire):
    status: Literal["ok"] = "ok"


class ErrorBody(Wire):
    code: str
    message: str
    type: str
    param: str | None
    request_id: str
    details: dict[str, Any] | None


class ErrorView(Wire):
    """Every error of every route."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "code": "invalid_request",
                        "message": "width must be between 32 and 96 pixels.",
                        "type": "invalid_request_error",
                        "param": "width",
                        "request_id": "req_4f1c0e0d8a2b4b6f9a3c5d7e",
                        "details": {
                            "faults": [
                                {"param": "width", "message": "width must be between 32 and 96 pixels."}
                            ]
                        },
                    }
                }
            ]
        }
    )

    error: ErrorBody
