"""The solvers of diffusers that a text-to-image model may ship, and what diffusers itself makes of a number of steps."""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace
from typing import Any, Final

import diffusers
import numpy as np
import pytest
from diffusers import EulerDiscreteScheduler, StableDiffusionImg2ImgPipeline

BASE: Final = EulerDiscreteScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
)
"""Stable Diffusion's own noise levels."""

NOT_HERE: Final = {
    "DPMSolverSDEScheduler": "its noise comes from torchsde, without which diffusers makes none"
}
"""The compatible ones that cannot be tried, with the reason."""

DISTILLED: Final = ("LCMScheduler", "TCDScheduler")
"""In no list of compatible ones, but shipped by text-to-image models that were distilled with them."""

NAMES: Final = sorted({each.__name__ for each in BASE.compatibles} - set(NOT_HERE)) + list(DISTILLED)

FLAVOURS: Final[dict[str, dict[str, Any]]] = {
    "leading": {"timestep_spacing": "leading"},
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"timestep_spacing": "trailing", "use_karras_sigmas": True},
    "skip_prk": {"timestep_spacing": "leading", "skip_prk_steps": True, "set_alpha_to_one": False},
}
"""`skip_prk` is what Stable Diffusion 1.x ships PNDM with."""


def made(name: str, flavour: str, config: Any = BASE.config) -> Any:
    """The solver called `name`, set up as a pipeline would when its scheduler is exchanged."""
    kind = getattr(diffusers, name)
    # As every pipeline of Stable Diffusion corrects it when it is made.
    clip = {"clip_sample": False} if "clip_sample" in inspect.signature(kind).parameters else {}
    # A null means the same as nothing, but not to all of them.
    given = {key: value for key, value in config.items() if value is not None}
    return kind.from_config(given, **clip, **FLAVOURS[flavour])


def flavours(name: str) -> list[str]:
    """Those that `name` tells apart."""
    known = inspect.signature(getattr(diffusers, name)).parameters
    return [flavour for flavour, config in FLAVOURS.items() if set(config) & set(known)] or ["leading"]


ALL: Final = [(name, flavour) for name in NAMES for flavour in flavours(name)]


class _Numpy:
    """numpy with an `arange` that counts right where its step is a broken number."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def arange(self, start: float, stop: float | None = None, step: float = 1, **rest: Any) -> Any:
        if stop is None:
            return np.arange(start, **rest)
        wanted = round((stop - start) / step, 6)
        return np.arange(start, stop, step, **rest)[: int(np.ceil(wanted))]


def mend(scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' own file of the solver, without the surplus timestep -1 of trailing spacing."""
    # Those that count by torch have no numpy, and no surplus.
    monkeypatch.setattr(sys.modules[type(scheduler).__module__], "np", _Numpy(), raising=False)


def of_diffusers(scheduler: Any, steps: int, strength: float | None) -> list[float]:
    """The timesteps that the pipelines of diffusers walk, of a scheduler that was set to so many steps."""
    if strength is None:
        return [float(time) for time in scheduler.timesteps]
    pipeline: Any = SimpleNamespace(scheduler=scheduler)
    times, _ = StableDiffusionImg2ImgPipeline.get_timesteps(pipeline, steps, strength, "cpu")
    return [float(time) for time in times]
