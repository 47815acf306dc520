"""OpenAI's Images API (https://platform.openai.com/docs/api-reference/images/create) in terms of
jobs: its wire models, and the translation. Pure.

Fields of OpenAI that a diffusion model has no use for (quality, style, moderation, user) are
accepted and ignored. Fields that ask for something that we cannot do (transparency, animation,
drawings) are refused by name. docs/api.md lists them all.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.errors import LEFT_OUT
from api.job_request import JobRequest
from api.normalise import invalid
from contracts.errors import (
    ContentBlocked,
    ContentPolicyViolation,
    DarkroomError,
    InvalidRequest,
    RequestError,
)
from contracts.jobs import ImageRef
from contracts.requests import MAX_PREVIEWS, OutputFormat
from views.job import Wire

MAX_RETRY_AFTER_S: Final = 120.0
"""The longest `Retry-After` that OpenAI's client waits for. Above it the client does not retry at all."""
HOPELESS_S: Final = 3600.0
"""A client that has to wait longer, such as for a new day, is told not to retry: no call should be
held for so long."""

_SIZE: Final = re.compile(r"(\d{1,9})x(\d{1,9})\Z", re.ASCII)
_NAMES: Final = {
    "num_images": "n",
    "width": "size",
    "height": "size",
    "output_quality": "output_compression",
}
"""From our names of fields to OpenAI's."""


class ImagesRequest(BaseModel):
    """The body of `POST /v1/images/generations`."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        frozen=True,
        json_schema_extra={"examples": [{"prompt": "a red apple", "n": 1, "response_format": "url"}]},
    )

    prompt: str = Field(description="What the image should show.")
    model: str | None = Field(default=None, description="One of `GET /v1/models`.")
    n: int | None = Field(default=None, description="Images to draw.")
    size: str | None = Field(default=None, description="`WIDTHxHEIGHT` in pixels, or `auto`.")
    response_format: Literal["url", "b64_json"] | None = Field(
        default=None, description="By default `b64_json`, unless the operator says otherwise."
    )
    output_format: OutputFormat | None = None
    output_compression: int | None = Field(
        default=None, description="0 to 100: the quality of jpeg and webp."
    )
    background: Literal["auto", "opaque"] | None = Field(default=None, description="Not read: always opaque.")
    quality: str | None = Field(default=None, description="Not read.")
    complexity: str | None = Field(default=None, description="Not read.")
    style: str | None = Field(default=None, description="Not read.")
    moderation: str | None = Field(default=None, description="Not read.")
    user: str | None = Field(default=None, description="Not read.")
    safety_identifier: str | None = Field(default=None, description="Not read.")
    stream: bool | None = Field(default=None, description="Answer with server-sent events.")
    partial_images: int | None = Field(
        default=None,
        description="0 to 3: how often, with `stream`, the first image is shown in the making. One step has nothing to show.",
    )
    frame_count: None = Field(default=None, description="Refused: no image is animated.")
    frame_duration_ms: None = Field(default=None, description="Refused: no image is animated.")
    svg: None = Field(default=None, description="Refused: images are made of pixels.")
    image: None = Field(default=None, description="Refused: `init_image` of `POST /v1/jobs` does this.")
    mask: None = Field(default=None, description="Refused: no image is edited.")
    markup: None = Field(default=None, description="Refused: no image is edited.")
    input_fidelity: None = Field(default=None, description="Refused: no image is edited.")
    negative_prompt: str | None = Field(
        default=None,
        description="Ours: what the image should not show. Read only where guidance_scale is above 1.",
    )
    num_inference_steps: int | None = Field(default=None, description="Ours: denoising steps.")
    guidance_scale: float | None = Field(default=None, description="Ours: classifier-free guidance.")
    seed: int | Literal["random"] | None = Field(
        default=None,
        description="Ours: by default derived from the request, so that equal requests are equal.",
    )


EXPECTED: Final = {
    "prompt": "a string",
    "model": "a string",
    "n": "an integer",
    "size": "WIDTHxHEIGHT or auto",
    "response_format": "url or b64_json",
    "output_format": "png, jpeg or webp: others are not made here",
    "output_compression": "an integer",
    "background": "auto or opaque: no image is transparent here",
    "quality": "a string",
    "complexity": "a string",
    "style": "a string",
    "moderation": "a string",
    "user": "a string",
    "safety_identifier": "a string",
    "stream": "true or false",
    "partial_images": "an integer",
    "frame_count": f"{LEFT_OUT}: no image is animated here",
    "frame_duration_ms": f"{LEFT_OUT}: no image is animated here",
    "svg": f"{LEFT_OUT}: images are made of pixels here",
    "image": f"{LEFT_OUT}: to start from an image, send it as init_image to POST /v1/jobs",
    "mask": f"{LEFT_OUT}: no image is edited here",
    "markup": f"{LEFT_OUT}: no image is edited here",
    "input_fidelity": f"{LEFT_OUT}: no image is edited here",
    "negative_prompt": "a string",
    "num_inference_steps": "an integer",
    "guidance_scale": "a finite number",
    "seed": 'an integer or "random"',
}


class ImageData(Wire):
    """One image: its address, or its bytes in base64."""

    url: str | None = None
    b64_json: str | None = None


class ImagesAnswer(Wire):
    """The answer of `POST /v1/images/generations`. `created` is in Unix seconds; `size` is `WIDTHxHEIGHT`."""

    created: int
    background: Literal["opaque"] = "opaque"
    data: list[ImageData]
    output_format: OutputFormat
    size: str


class TokenDetails(Wire):
    """OpenAI's split of tokens; always zero here."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(Wire):
    """OpenAI's count of tokens; always zero here."""

    input_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens: int = 0
    total_tokens: int = 0


class PartialEvent(Wire):
    """Event `image_generation.partial_image`: the first image of a streamed answer, as it is so far."""

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    partial_image_index: int
    b64_json: str
    background: Literal["opaque"] = "opaque"
    created_at: int
    output_format: OutputFormat
    quality: Literal["auto"] = "auto"
    size: str


class CompletedEvent(Wire):
    """Event `image_generation.completed`: one finished image of a streamed answer."""

    type: Literal["image_generation.completed"] = "image_generation.completed"
    b64_json: str
    background: Literal["opaque"] = "opaque"
    created_at: int
    output_format: OutputFormat
    quality: Literal["auto"] = "auto"
    size: str
    usage: Usage = Usage()


def to_job(body: ImagesRequest) -> JobRequest:
    """The job that `body` asks for. Raises `RequestError` (400)."""
    width = height = None
    if body.size not in (None, "auto"):
        sides = _SIZE.match(body.size or "")
        if sides is None:
            raise as_openai(invalid([("size", "size must be WIDTHxHEIGHT in pixels, or auto.")]))
        width, height = int(sides[1]), int(sides[2])
    if body.partial_images is not None and not 0 <= body.partial_images <= MAX_PREVIEWS:
        limit = f"partial_images must be between 0 and {MAX_PREVIEWS}."
        raise as_openai(invalid([("partial_images", limit)]))
    compression = body.output_compression
    if compression is not None and not 0 <= compression <= 100:
        raise as_openai(invalid([("output_compression", "output_compression must be between 0 and 100.")]))
    return JobRequest(
        prompt=body.prompt,
        model=body.model,
        negative_prompt=body.negative_prompt,
        width=width,
        height=height,
        num_inference_steps=body.num_inference_steps,
        guidance_scale=body.guidance_scale,
        seed=body.seed,
        num_images=body.n,
        output_format=body.output_format,
        output_quality=None if compression is None else max(1, compression),
        previews=body.partial_images if body.stream else None,
    )


def as_openai(error: InvalidRequest) -> RequestError:
    """`error` as OpenAI answers a bad value: with status 400, which its client raises as
    `BadRequestError`, and its names of fields."""
    faults: list[dict[str, Any]] = (error.details or {}).get("faults", [])
    named = [_with_openai_name(fault["param"], fault["message"]) for fault in faults]
    first = named[0] if named else (error.param, error.message)
    details = {"faults": [{"param": param, "message": message} for param, message in named]}
    return RequestError(first[1], param=first[0], details=details)


def policy_violation(error: ContentBlocked) -> ContentPolicyViolation:
    """`error` as OpenAI answers what its policy does not allow."""
    return ContentPolicyViolation(error.message, param=error.param, details=error.details)


def _with_openai_name(param: str, message: str) -> tuple[str, str]:
    name = _NAMES.get(param, param)
    if name == "size":
        return name, f"size: {message}"
    return name, name + message.removeprefix(param) if message.startswith(param) else message


def within_patience(error: DarkroomError, headers: dict[str, str]) -> DarkroomError:
    """`error` with a wait that OpenAI's client accepts.

    The true wait is then in `details.retry_after_s`. Headers of the answer are added to `headers`.
    """
    if error.retry_after_s is not None and error.retry_after_s > MAX_RETRY_AFTER_S:
        if error.retry_after_s > HOPELESS_S:
            headers["X-Should-Retry"] = "false"
        error.details = {**(error.details or {}), "retry_after_s": round(error.retry_after_s, 1)}
        error.retry_after_s = MAX_RETRY_AFTER_S
    return error


def answer(
    created: float, images: Iterable[ImageRef], data: Iterable[ImageData], format_: OutputFormat
) -> ImagesAnswer:
    """The answer with `data`, which are the `images` in the format `format_`.

    `created` is in Unix seconds.
    """
    first = next(iter(images))
    return ImagesAnswer(created=int(created), data=list(data), output_format=format_, size=size_of(first))


def size_of(image: ImageRef) -> str:
    """The size of `image` as `WIDTHxHEIGHT`, in pixels."""
    return f"{image.width}x{image.height}"


def b64(data: bytes) -> str:
    """`data` in base64."""
    return base64.b64encode(data).decode("ascii")
