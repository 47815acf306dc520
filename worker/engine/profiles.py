"""What a model wants to be asked: steps and guidance that its weights alone do not tell.

A model's folder may say it in `darkroom.json`. What it leaves open is guessed from the model's name.
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
    """Defaults and limits of sampling."""

    steps: int
    max_steps: int
    guidance_scale: float
    max_guidance_scale: float
    description: str = ""

    @property
    def distilled(self) -> bool:
        """Whether the model takes its steps from the last timestep down (trailing), as one-step models do."""
        return self.guidance_scale == 0.0

    @property
    def init_images(self) -> bool:
        """Whether it can start from a picture. That takes a part of the steps, so there have to be two."""
        return self.max_steps > 1


TURBO: Final = Profile(steps=1, max_steps=8, guidance_scale=0.0, max_guidance_scale=4.0)
"""SD-Turbo's own: one step, no guidance (Sauer et al. 2023, "Adversarial Diffusion Distillation")."""
DIFFUSION: Final = Profile(steps=25, max_steps=100, guidance_scale=7.5, max_guidance_scale=20.0)
XL: Final = Profile(steps=30, max_steps=100, guidance_scale=5.0, max_guidance_scale=20.0)
"""Podell et al. 2023; the scale is diffusers' own default for it."""


class Announcement(Frozen):
    """The fields of `darkroom.json`, named as `GET /v1/models` names them. All may be left out."""

    default_num_inference_steps: Annotated[int, Field(ge=1)] | None = None
    max_num_inference_steps: Annotated[int, Field(ge=1)] | None = None
    default_guidance_scale: Annotated[float, Field(ge=0)] | None = None
    max_guidance_scale: Annotated[float, Field(ge=0)] | None = None
    description: str | None = None


def profile_of(name: str, folder: Path | None = None, max_steps: int | None = None) -> Profile:
    """The profile of the model called `name`: SD-Turbo's for a turbo model, SDXL's, else Stable Diffusion's.

    The `darkroom.json` of `folder` comes before the name, and the operator's `max_steps` before both. Raises
    `ModelLoadError` for a file that does not fit.
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


def _announced(path: Path, otherwise: Profile) -> Profile:
    try:
        said = Announcement.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelLoadError(f"{path}: {where}{': ' if where else ''}{first['msg']}.") from None
    given: dict[str, Any] = {
        "steps": said.default_num_inference_steps,
        "max_steps": said.max_num_inference_steps,
        "guidance_scale": said.default_guidance_scale,
        "max_guidance_scale": said.max_guidance_scale,
        "description": said.description,
    }
    profile = replace(otherwise, **{name: value for name, value in given.items() if value is not None})
    if profile.steps > profile.max_steps or profile.guidance_scale > profile.max_guidance_scale:
        raise ModelLoadError(f"{path}: a default is above its maximum.")
    return profile
