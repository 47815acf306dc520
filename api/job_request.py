"""What a client may send: the fields of the body of `POST /v1/jobs`, and their types.

`api.normalise` checks the bounds that depend on a model or a setting.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.requests import CacheMode, OutputFormat
from contracts.webhooks import EVENTS


class WebhookRequest(BaseModel):
    """Where the end of the job is reported: signed as in Standard Webhooks, and repeated for up to
    three days until a 2xx answer."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    url: str = Field(
        description="Reachable from the internet, over https.", examples=["https://example.com/hook"]
    )
    events: Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        default=None, description=f"Of {', '.join(EVENTS)}. By default all.", examples=[list(EVENTS)]
    )


class LoraRequest(BaseModel):
    """A low-rank adapter of the model. `GET /v1/models` lists the adapters of each model."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(description="One of the model's `loras`.", examples=["pixel"])
    scale: float | None = Field(
        default=None, description="How strongly it acts, 0 to 2; by default 1. At 0 it does nothing."
    )


MetadataKey = Annotated[str, Field(min_length=1, max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]


class JobRequest(BaseModel):
    """The body of `POST /v1/jobs`. Types are strict, unknown fields refused; null means "not given"."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        frozen=True,
        json_schema_extra={"examples": [{"prompt": "a red apple", "seed": 7}]},
    )

    prompt: str = Field(description="What the image should show. (x:1.5) and <lora:x:1> are plain letters.")
    model: str | None = Field(default=None, description="One of `GET /v1/models`; by default the platform's.")
    negative_prompt: str | None = Field(default=None, description="Not to show. Read if guidance_scale > 1.")
    width: int | None = Field(default=None, description="Pixels, within the model's limits.")
    height: int | None = Field(default=None, description="Pixels, within the model's limits.")
    num_inference_steps: int | None = Field(default=None, description="Denoising steps.")
    guidance_scale: float | None = Field(default=None, description="Classifier-free guidance; 0 to 1: off.")
    seed: int | Literal["random"] | None = Field(
        default=None,
        description="0 to 2^53 - 1. By default derived from the request, so that equal requests get equal "
        'images; "random" asks for a new one.',
    )
    num_images: int | None = Field(default=None, description="Images to draw, from consecutive seeds.")
    priority: Literal["interactive", "batch"] | None = Field(
        default=None,
        description="batch: nobody waits for it; it yields to interactive jobs, and keeps a ninth of the device.",
    )
    timeout_seconds: float | None = Field(
        default=None,
        description="The job expires, and costs nothing, if it has not ended by then. The platform's limit is the "
        "default and the maximum.",
    )
    output_format: OutputFormat | None = Field(
        default=None,
        description="The format of the images. By default that of `Accept`, else the platform's.",
    )
    output_quality: int | None = Field(
        default=None, description="1 to 100, for jpeg and webp. By default 90. PNG ignores it."
    )
    lossless: bool | None = Field(default=None, description="WebP without loss.")
    embed_metadata: bool | None = Field(
        default=None,
        description="Write the parameters, the prompt among them, into the file: as the PNG text `parameters`, or as Exif "
        "in jpeg and webp. By default a file has no metadata.",
    )
    cache: CacheMode | Literal["similar"] | None = Field(
        default=None,
        description="use (by default): answer from the cache where it can; refresh: compute anew, and put the result into the "
        "cache; off: neither read nor write it, and share nothing; similar: as use, and also answer by the images of a prompt "
        "that means the same, where the platform has a floor of similarity.",
    )
    similarity: float | None = Field(
        default=None,
        description="With cache similar: how similar the prompts must be, up to 1. By default, and at least, the platform's floor.",
    )
    webhook: WebhookRequest | None = Field(default=None, description="Where the end of the job is reported.")
    lora: LoraRequest | None = Field(
        default=None, description="An adapter that changes the weights of the model."
    )
    init_image: str | None = Field(
        default=None,
        description="An init image: PNG, JPEG or WebP in base64, alone or as a data URL. It is turned upright, "
        "converted to sRGB by its colour profile, put on white, scaled to cover the size of the job, and cut at its "
        "centre.",
    )
    strength: float | None = Field(
        default=None,
        description="How far the result may be from `init_image`: the share of the steps that are taken, above 0, at "
        "most 1. By default 0.8.",
    )
    previews: int | None = Field(
        default=None, description="0 to 3: how often the job's events show its first image in the making."
    )
    metadata: Metadata | None = Field(
        default=None,
        description="Your own pairs, kept and shown with the job. They do not change the images.",
        examples=[{"order": "17"}],
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
    "cache": "use, refresh, off or similar",
    "similarity": "a finite number",
    "webhook": "an object with a url",
    "webhook.url": "a string",
    "webhook.events": "a list of names of events",
    "init_image": "a string",
    "strength": "a finite number",
    "previews": "an integer",
    "metadata": "an object of at most 16 pairs, of keys of 1 to 64 characters and texts of at most 512",
    "lora": "an object with a name",
    "lora.name": "a string",
    "lora.scale": "a finite number",
}
"""What each field of `JobRequest` must be, in the words of an error message."""
