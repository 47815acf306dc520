"""The request for images as it is recorded, sent to a worker and drawn."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from contracts.documents import Document, Versioned
from contracts.moderation import Verdict

DEFAULT_QUALITY: Final = 90
MAX_JPEG_TEXT_BYTES: Final = 60_000
"""Bytes of the prompts in a JPEG, as UTF-16.

A JPEG keeps metadata in one segment of 64 KiB; the parameters need the rest.
"""
MAX_TEXT_CHARS: Final = 65_536
"""The longest prompt that any setting allows. A worker refuses a message with a longer one."""
MAX_SEED = 2**53 - 1
"""Seeds stay exact in every JSON client: IEEE doubles carry 53 bits."""
MAX_PREVIEWS: Final = 3
HELD_SCHEMA: Final = 2
"""The lowest schema of a worker that holds the images of a request whose prompts are in review, and those that it
cannot judge by the request's policy."""

OutputFormat = Literal["png", "jpeg", "webp"]
CacheMode = Literal["use", "refresh", "off"]
"""`refresh` computes again and caches the result.

`off` neither reads nor writes the cache and shares no computation.
"""


def _absent(value: object) -> bool:
    # An absent value is not written, so processes of a version without this field can read the document.
    return value is None


def _none_asked(value: object) -> bool:
    return value == 0


def _nothing_said(value: object) -> bool:
    return not value


def steps_taken(steps: int, strength: float | None) -> int:
    """How many of a request's `steps` run.

    With a `strength` only this share of them runs, from the noised init image. Without one all of them
    run. `contracts.models.StepCounts` says how many steps the solver makes of them.
    """
    return steps if strength is None else min(int(steps * strength), steps)


class Lora(Document):
    """A low-rank adapter of the model. It changes the weights by its difference times `scale`."""

    name: str
    scale: float = 1.0


class Similar(Document):
    """A request that a prompt with the same meaning may answer (`cache: "similar"`), and what answered it."""

    floor: Annotated[float, Field(ge=0, le=1)]
    """The least cosine similarity of the two prompts."""
    any_seed: bool = False
    """Whether the request names no seed, so that an image of any may answer it."""
    prompt: str | None = Field(default=None, exclude_if=_absent)
    """The prompt whose images answered it; None: it was drawn, or had a result of its own."""
    score: float | None = Field(default=None, exclude_if=_absent)
    """The similarity of that prompt."""


class GenerationRequest(Versioned):
    """A normalised request: defaults filled in, bounds checked, the seed fixed.

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
    """For jpeg and for webp that is not lossless; the default for other formats."""
    lossless: bool = False
    """For webp. PNG always is lossless, JPEG never."""
    embed_metadata: bool = False
    """Whether the file holds the parameters of its image, the prompt among them."""
    cache: CacheMode = "use"
    model_revision: str = ""
    """The revision of the model that the request was checked against."""
    lora: Lora | None = Field(default=None, exclude_if=_absent)
    """Also None at a scale of 0, which would change nothing."""
    init_image: str | None = Field(default=None, exclude_if=_absent)
    """The init image: a PNG of the request's size, by its name in the blob store."""
    strength: Annotated[float, Field(gt=0, le=1)] | None = Field(default=None, exclude_if=_absent)
    """How far to move from `init_image`: the share of the steps that run. Present only with `init_image`."""
    previews: Annotated[int, Field(ge=0, le=MAX_PREVIEWS)] = Field(default=0, exclude_if=_none_asked)
    """How many previews of the first image are shown, at most. Does not change the result."""
    warnings: tuple[str, ...] = Field(default=(), exclude_if=_nothing_said)
    """Notes for the owner on how the request was read. They do not change the result."""
    metadata: dict[str, str] = Field(default_factory=dict, exclude_if=_nothing_said)
    """The owner's own data on the job. It does not change the result and is part of no key."""
    denoising_steps: Annotated[int, Field(ge=1)] | None = Field(default=None, exclude_if=_absent)
    """Denoising steps of one image, where the model's solver takes another number than the request names."""
    moderation: Verdict | None = Field(default=None, exclude_if=_absent)
    """What the policy says of the prompts. `in_review`: every image is held, whatever it shows, so an older worker
    must not take the job (`min_schema`). None: nothing was found, or no policy is in force. For moderators alone:
    no answer to an owner has it."""

    policy: str = Field(default="", exclude_if=_nothing_said)
    """The policy (`name@version`) that the images must be judged by; empty: by none. A worker that has no policy of this
    name holds them, and an older worker must not take the job (`min_schema`)."""

    similar: Similar | None = Field(default=None, exclude_if=_absent)
    """Whether a prompt that means the same may answer it. `cache` is then `use`, as older versions know it."""

    @property
    def steps(self) -> int:
        """Denoising steps of all images together."""
        return self.num_images * self.steps_taken

    @property
    def steps_taken(self) -> int:
        """Denoising steps of one image."""
        return self.denoising_steps or steps_taken(self.num_inference_steps, self.strength)

    @property
    def held(self) -> bool:
        """Whether every image is held for people, whatever it shows."""
        return self.moderation is not None and self.moderation.state == "in_review"

    def under(self, policy: str) -> GenerationRequest:
        """This request, whose images must be judged by the policy `name@version`."""
        return self.model_copy(update={"policy": policy, "min_schema": max(self.min_schema, HELD_SCHEMA)})

    def judged(self, verdict: Verdict) -> GenerationRequest:
        """This request with what the policy says of its prompts."""
        held = verdict.state == "in_review"
        return self.model_copy(
            update={
                "moderation": verdict,
                "min_schema": max(self.min_schema, HELD_SCHEMA) if held else self.min_schema,
            }
        )

    def image_seed(self, index: int) -> int:
        """The seed of image `index` of this request."""
        return (self.seed + index) % (MAX_SEED + 1)
