"""Typed requests and answers of the server. Unknown fields of a newer server are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict


class JobFields(TypedDict, total=False):
    """The fields of a job besides its prompt.

    The server says which of them a model supports. A field that is None is not sent.
    """

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
    cache: Literal["use", "refresh", "off", "similar"] | None
    similarity: float | None
    webhook: Mapping[str, Any] | None
    lora: Mapping[str, Any] | None
    init_image: str | None
    strength: float | None
    previews: int | None
    metadata: Mapping[str, str] | None


class Answer(BaseModel):
    """Base of the answers: frozen, unknown fields ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Moderation(Answer):
    """What the content policy says of an image. `verdict` is passed, tagged, in_review, blocked, released or refused."""

    verdict: str
    categories: tuple[str, ...] = ()
    policy: str = ""


class Image(Answer):
    """A finished image. `url` is relative to the server, or absolute.

    It is None while the content policy withholds the image; `moderation` says why. `moderation` is None if no
    policy is in force.
    """

    url: str | None = None
    width: int
    height: int
    seed: int
    content_type: str
    moderation: Moderation | None = None

    @property
    def verdict(self) -> str:
        """What the content policy says of the image; empty if no policy is in force."""
        return "" if self.moderation is None else self.moderation.verdict


class Timings(Answer):
    """Milliseconds that a job spent in the queue, in the batch and for the encoding; the size of the batch."""

    queued_ms: float
    batch_ms: float
    encode_ms: float
    batch_size: int


class JobError(Answer):
    """Why a job failed. `retryable`: the same job may succeed later."""

    code: str
    message: str
    retryable: bool = False


class Urls(Answer):
    """The URLs of a job, relative to the server or absolute. `events` is None if the server sends none."""

    self: str
    cancel: str
    events: str | None = None
    webhook: str | None = None


class SimilarAnswer(Answer):
    """The prompt whose images answered a job, and how similar it is to the job's own, up to 1."""

    prompt: str
    score: float


class Job(Answer):
    """A job's record at the time of the answer. Times are Unix seconds. A value that is not known is None."""

    id: str
    status: str
    """queued, running, succeeded, failed, canceled or expired."""
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    queue_position: int | None = None
    eta_seconds: float | None = None
    cache: str
    """hit, miss, joined or similar."""
    similar: SimilarAnswer | None = None
    """Of a similar answer: the prompt that was drawn."""
    request: dict[str, Any]
    denoising_steps: int | None = None
    """Steps per image, which the model's solver derives from `num_inference_steps` and `strength`."""
    images: tuple[Image, ...] = ()
    timings: Timings | None = None
    warnings: tuple[str, ...] = ()
    error: JobError | None = None
    urls: Urls

    @property
    def ended(self) -> bool:
        """Whether the job has ended, with whatever status."""
        return self.status not in ("queued", "running")


class JobPage(Answer):
    """One page of jobs, newest first; `next_cursor` is None on the last page."""

    data: tuple[Job, ...]
    next_cursor: str | None = None


class Model(BaseModel):
    """A served model. Its limits and defaults are attributes too, under the server's names."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    live_workers: int = 0


class Event(Answer):
    """A server-sent event.

    `name` is snapshot, status, progress, preview, output, moderated, or a name that a newer server adds.
    """

    name: str
    data: Any
    id: str | None = None


class ModelPage(Answer):
    """The models that the server knows."""

    data: tuple[Model, ...]
