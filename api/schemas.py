"""The wire models of answers, except a job's (`views.job`).

Those of requests are in `api.job_request` and in the modules of the routes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from contracts.jobs import CacheStatus, JobStatus
from views.job import ImageView, JobErrorView, JobView, TimingsView, Wire


class StatusEvent(Wire):
    """Event `status`: the state of the job now. The stream ends after a terminal one."""

    id: str
    status: JobStatus
    queue_position: int | None
    eta_seconds: float | None
    started_at: float | None
    finished_at: float | None
    error: JobErrorView | None


class ModeratedEvent(Wire):
    """Event `moderated`: people have decided on images of the ended job. The images are as they are now."""

    id: str
    images: list[ImageView]


class OutputEvent(Wire):
    """Event `output`: the images of a job that has succeeded. A terminal `status` follows."""

    id: str
    cache: CacheStatus
    images: list[ImageView]
    timings: TimingsView | None
    warnings: list[str]


class JobList(Wire):
    """One page of jobs, newest first.

    `next_cursor` is the `after` of the next page; null on the last page.
    """

    data: list[JobView]
    next_cursor: str | None


class ModelView(Wire):
    """A served model in the format of OpenAI's list, with its limits and defaults."""

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
    refused_num_inference_steps: list[int] = Field(description="Numbers of steps that the solver cannot do.")
    default_guidance_scale: float
    max_guidance_scale: float
    max_prompt_tokens: int
    max_num_images: int
    init_images: bool = Field(description="Whether a request may have an `init_image`.")
    loras: list[str] = Field(description="The adapters that a request may name.")
    live_workers: int
    images_per_s: float


class ModelList(Wire):
    """All served models, in the format of OpenAI's list."""

    object: Literal["list"] = "list"
    data: list[ModelView]


class Ready(Wire):
    """The process can take jobs; each of `checks` is `ok`."""

    status: Literal["ready"] = "ready"
    checks: dict[str, str] = Field(examples=[{"broker": "ok", "store": "ok"}])


class Health(Wire):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class ErrorBody(Wire):
    """What went wrong: `code` for programs, `message` for people.

    `param` names the field, if it is about one.
    """

    code: str
    message: str
    type: str
    param: str | None
    request_id: str
    details: dict[str, Any] | None


class ErrorView(Wire):
    """An error. All routes use this format."""

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
