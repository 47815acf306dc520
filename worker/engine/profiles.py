"""What a model wants to be asked: steps, guidance and sizes that its weights alone do not tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


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


TURBO: Final = Profile(steps=1, max_steps=8, guidance_scale=0.0, max_guidance_scale=4.0)
"""SD-Turbo's own: one step, no guidance (Sauer et al. 2023, "Adversarial Diffusion Distillation")."""
DIFFUSION: Final = Profile(steps=25, max_steps=100, guidance_scale=7.5, max_guidance_scale=20.0)
XL: Final = Profile(steps=30, max_steps=100, guidance_scale=5.0, max_guidance_scale=20.0)
"""Podell et al. 2023; the scale is diffusers' own default for it."""

_KNOWN: Final = {
    "emoji-turbo": Profile(
        steps=1,
        max_steps=8,
        guidance_scale=0.0,
        max_guidance_scale=4.0,
        description="Emoji on plain backgrounds in one step. Ships with Darkroom.",
    ),
    "emoji-base": Profile(
        steps=25,
        max_steps=100,
        guidance_scale=1.5,
        max_guidance_scale=10.0,
        description="The many-step teacher of emoji-turbo. Ships with Darkroom.",
    ),
}


def profile_of(name: str) -> Profile:
    """The profile of the model called `name`: one known by name, SD-Turbo's for a turbo model, SDXL's, else Stable Diffusion's."""
    if name in _KNOWN:
        return _KNOWN[name]
    if "turbo" in name.lower():
        return TURBO
    return XL if "xl" in name.lower() else DIFFUSION
