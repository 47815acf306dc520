"""What the server takes and answers, typed. Fields that a newer server adds are kept out of the way, not refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict


class JobFields(TypedDict, total=False):
    """What a job can be asked for beside its prompt. The server tells what a model takes; None is as good as absent."""

    model: str | None
    negative_prompt: str | None
    width: int | None
    height: int | None
    num_inference_steps: int | None
    guidance_scale: float | None
    seed: int | Literal["random"] | None
    num_images: int | None
    priority: Literal["interactive", "batch"] | None
    timeout_seconds: float | None
    output_format: Literal["png", "jpeg", "webp"] | None
    output_quality: int | None
    lossless: bool | None
    embed_metadata: bool | None
    cache: Literal["use", "refresh", "off"] | None
    webhook: Mapping[str, Any] | None
    lora: Mapping[str, Any] | None
    init_image: str | None
    strength: float | None
    previews: int | None
    metadata: Mapping[str, str] | None


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Image(Answer):
    """A finished picture. `url` is relative to the server, or absolute."""

    url: str
    width: int
    height: int
    seed: int
    content_type: str


class Timings(Answer):
    queued_ms: float
    batch_ms: float
    encode_ms: float
    batch_size: int


class JobError(Answer):
    code: str
    message: str
    retryable: bool = False


class Urls(Answer):
    self: str
    cancel: str
    events: str | None = None
    webhook: str | None = None


class Job(Answer):
    """A job as it stood when it was read. Times are Unix seconds; what is not known (yet) is None."""

    id: str
    status: str
    """queued, running, succeeded, failed, canceled or expired."""
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    queue_position: int | None = None
    eta_seconds: float | None = None
    cache: str
    """hit, miss or joined."""
    request: dict[str, Any]
    denoising_steps: int | None = None
    """Steps that each image takes: what the model's solver makes of `num_inference_steps` and `strength`."""
    images: tuple[Image, ...] = ()
    timings: Timings | None = None
    warnings: tuple[str, ...] = ()
    error: JobError | None = None
    urls: Urls

    @property
    def ended(self) -> bool:
        return self.status not in ("queued", "running")


class JobPage(Answer):
    """One page of jobs, newest first; `next_cursor` is None on the last one."""

    data: tuple[Job, ...]
    next_cursor: str | None = None


class Model(BaseModel):
    """A served model; its limits and defaults are attributes too, as the server names them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    live_workers: int = 0


class Event(Answer):
    """A server-sent event. `name` is snapshot, status, progress, preview, output or what a newer server sends."""

    name: str
    data: Any
    id: str | None = None


class ModelPage(Answer):
    data: tuple[Model, ...]
