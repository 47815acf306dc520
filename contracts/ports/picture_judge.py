"""The port of a judge of pictures: layer 3 of moderation, between an encoded image and its verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from contracts.moderation import Finding, Layer


@dataclass(frozen=True, slots=True)
class PictureToJudge:
    """A finished image, before anybody has seen it.

    `rgb` holds `height * width * 3` bytes, row by row, as `contracts.engine.Pixels.rgb`. `file` is the
    encoded image, whose SHA-256 is its name. `embedding` holds little-endian float16 numbers of length 1,
    by the model `clip` (`name@revision`); None: the image has none.
    """

    rgb: bytes
    width: int
    height: int
    file: bytes
    tenant: str
    embedding: bytes | None = None
    clip: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What all layers of a judge found in one image, and which of them could not look."""

    findings: tuple[Finding, ...] = ()
    away: tuple[Layer, ...] = ()


class PictureJudge(Protocol):
    """Looks at images. What follows from its findings is the policy's business (`moderation.decide`)."""

    @property
    def embeds(self) -> bool:
        """Whether it compares embeddings: a picture without one is not looked at in full."""
        ...

    async def look(self, picture: PictureToJudge) -> Look:
        """What the layers find in the image.

        Raises nothing that an image can cause: a layer that fails, or takes too long, is in `away`.
        """
        ...
