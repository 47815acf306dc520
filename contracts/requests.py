"""What is asked for: a request for pictures, as it is recorded, sent to a worker and drawn."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from contracts.documents import Document, Versioned

DEFAULT_QUALITY: Final = 90
MAX_JPEG_TEXT_BYTES: Final = 60_000
"""A JPEG holds metadata in one segment of 64 KiB: the prompts in it, as UTF-16, have so much; the rest is for the parameters."""
MAX_TEXT_CHARS: Final = 65_536
"""The longest prompt that any setting allows; a worker believes no message that has a longer one."""
MAX_SEED = 2**53 - 1
"""Seeds stay exact in every JSON client (IEEE doubles carry 53 bits)."""
MAX_PREVIEWS: Final = 3

OutputFormat = Literal["png", "jpeg", "webp"]
CacheMode = Literal["use", "refresh", "off"]
"""`refresh` computes anew and puts the result into the cache; `off` neither reads nor writes it, and shares nothing."""


def _absent(value: object) -> bool:
    # Not written where it is not given: processes of a version that does not know the field then read on.
    return value is None


def _none_asked(value: object) -> bool:
    return value == 0


def _nothing_said(value: object) -> bool:
    return not value


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
    metadata: dict[str, str] = Field(default_factory=dict, exclude_if=_nothing_said)
    """What its owner keeps with the job. Changes nothing about the result, and is no part of any key."""
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
