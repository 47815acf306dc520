"""Profiles: a model's defaults and limits for steps and guidance, which its weights alone do not tell.

The file `darkroom.json` in a model's folder may state them. What the file leaves open is guessed from
the model's name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from contracts.documents import Frozen
from worker.engine.errors import ModelLoadError

FILE: Final = "darkroom.json"


@dataclass(frozen=True, slots=True)
class Profile:
    """Defaults and limits of steps and guidance."""

    steps: int
    max_steps: int
    guidance_scale: float
    max_guidance_scale: float
    description: str = ""

    @property
    def distilled(self) -> bool:
        """Whether the model uses trailing timestep spacing, as one-step models do."""
        return self.guidance_scale == 0.0

    @property
    def init_images(self) -> bool:
        """Whether it can start from an init image. That takes a part of the steps, so two are needed."""
        return self.max_steps > 1


TURBO: Final = Profile(steps=1, max_steps=8, guidance_scale=0.0, max_guidance_scale=4.0)
"""SD-Turbo: one step, no guidance (Sauer et al. 2023, "Adversarial Diffusion Distillation")."""
DIFFUSION: Final = Profile(steps=25, max_steps=100, guidance_scale=7.5, max_guidance_scale=20.0)
"""Stable Diffusion, and every other model."""
XL: Final = Profile(steps=30, max_steps=100, guidance_scale=5.0, max_guidance_scale=20.0)
"""SDXL (Podell et al. 2023). The guidance scale is diffusers' default for it."""


class Announcement(Frozen):
    """The fields of `darkroom.json`, with the names of `GET /v1/models`. All are optional."""

    default_num_inference_steps: Annotated[int, Field(ge=1)] | None = None
    max_num_inference_steps: Annotated[int, Field(ge=1)] | None = None
    default_guidance_scale: Annotated[float, Field(ge=0)] | None = None
    max_guidance_scale: Annotated[float, Field(ge=0)] | None = None
    description: str | None = None


def profile_of(name: str, folder: Path | None = None, max_steps: int | None = None) -> Profile:
    """Return the profile of the model called `name`: that of SD-Turbo, of SDXL or of Stable Diffusion.

    The `darkroom.json` of `folder` overrides the name, and the operator's `max_steps` overrides both.
    Raises `ModelLoadError` for an invalid file.
    """
    profile = _by_name(name)
    if folder is not None and (folder / FILE).is_file():
        profile = _announced(folder / FILE, profile)
    if max_steps is not None:
        profile = replace(profile, max_steps=max_steps, steps=min(profile.steps, max_steps))
    return profile


def _by_name(name: str) -> Profile:
    if "turbo" in name.lower():
        return TURBO
    return XL if "xl" in name.lower() else DIFFUSION


def _announced(path: Path, defaults: Profile) -> Profile:
    """The profile of a `darkroom.json`; `defaults` gives what the file leaves open."""
    try:
        announcement = Announcement.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ModelLoadError(f"{path}: {field}{': ' if field else ''}{first['msg']}.") from None
    stated: dict[str, Any] = {
        "steps": announcement.default_num_inference_steps,
        "max_steps": announcement.max_num_inference_steps,
        "guidance_scale": announcement.default_guidance_scale,
        "max_guidance_scale": announcement.max_guidance_scale,
        "description": announcement.description,
    }
    profile = replace(defaults, **{name: value for name, value in stated.items() if value is not None})
    if profile.steps > profile.max_steps or profile.guidance_scale > profile.max_guidance_scale:
        raise ModelLoadError(f"{path}: a default is above its maximum.")
    return profile
