"""The wire models of what a client gets back. What it may send is in `api.job_request` and beside the routes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.jobs import CacheStatus, JobStatus, Priority
from contracts.requests import CacheMode, OutputFormat


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
    metadata: dict[str, str] = Field(default={}, description="As it was sent.")


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
