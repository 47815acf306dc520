"""What a scheduler of diffusers is called in A1111's web UI, whose names other tools read in a picture's metadata.

The names are those of diffusers' own table (https://huggingface.co/docs/diffusers/api/schedulers/overview) and of A1111's
`modules/sd_samplers_kdiffusion.py`, `sd_samplers_timesteps.py` and `sd_schedulers.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

SAMPLERS: Final = {
    "DDIMScheduler": "DDIM",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "DPMSolverSDEScheduler": "DPM++ SDE",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "EulerDiscreteScheduler": "Euler",
    "HeunDiscreteScheduler": "Heun",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "KDPM2DiscreteScheduler": "DPM2",
    "LCMScheduler": "LCM",
    "LMSDiscreteScheduler": "LMS",
    "PNDMScheduler": "PLMS",
    "UniPCMultistepScheduler": "UniPC",
}
SCHEDULES: Final = {
    "use_karras_sigmas": "Karras",
    "use_exponential_sigmas": "Exponential",
    "use_beta_sigmas": "Beta",
}


def names_of(class_name: str, config: Mapping[str, Any]) -> tuple[str, str]:
    """Sampler and schedule type of a scheduler of that class. One that A1111 does not have keeps its class's name; a schedule
    that it has no name for is empty."""
    sampler = SAMPLERS.get(class_name, class_name)
    # Of the many forms of this one, A1111 has a name for two.
    match class_name, config.get("algorithm_type"):
        case "DPMSolverMultistepScheduler", "sde-dpmsolver++":
            sampler = "DPM++ 2M SDE"
        case "DPMSolverMultistepScheduler", other if other not in (None, "dpmsolver++"):
            sampler = class_name
    named = [name for option, name in SCHEDULES.items() if config.get(option)]
    if not named and config.get("timestep_spacing") == "trailing":
        named = ["SGM Uniform"]
    return sampler, named[0] if named else ""
