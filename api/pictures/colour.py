"""Colour: from a file's own colour profile to sRGB, on which the models were trained.

Runs in the child process.
"""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Final

from PIL import Image, ImageChops, ImageCms

UNUSED_PROFILE: Final = "The colour profile of init_image could not be used: its colours were read as sRGB."

_MODES: Final = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_FLAGS: Final = ImageCms.Flags.BLACKPOINTCOMPENSATION


def to_srgb(picture: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    """`picture` (L, RGB, RGBA or CMYK) in sRGB, as RGB, or as RGBA if it was RGBA; and a warning if
    its ICC profile cannot be used.

    The conversion is relative colorimetric with black point compensation, as in photo editors.
    Without a usable `profile`, the values are taken as sRGB.
    """
    if profile:
        # An image with an invalid profile can be read without it.
        with suppress(Exception):
            return _transformed(picture, profile), None
    warning = UNUSED_PROFILE if profile else None
    return (picture if picture.mode == "RGBA" else picture.convert("RGB")), warning


def _transformed(picture: Image.Image, profile: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = _MODES[source.profile.xcolor_space.strip()]
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        _FLAGS,
    )
    coloured = ImageCms.applyTransform(_channels(picture, mode), transform)
    if coloured is None:
        raise ValueError("nothing was transformed")
    if picture.mode == "RGBA":
        coloured.putalpha(picture.getchannel("A"))
    return coloured


def _channels(picture: Image.Image, mode: str) -> Image.Image:
    """The channels of `picture` that a profile for `mode` describes.

    Raises `ValueError` if the picture has other channels.
    """
    if picture.mode == mode:
        return picture
    if mode == "RGB" and picture.mode in ("L", "RGBA"):
        # Grey images with an RGB profile are common. Their grey is equal parts of each colour.
        return picture.convert("RGB")
    if mode == "L" and picture.mode == "RGBA":
        red, green, blue, _ = picture.split()
        if ImageChops.difference(red, green).getbbox() is ImageChops.difference(red, blue).getbbox() is None:
            return red
    raise ValueError("the profile is for other channels")
