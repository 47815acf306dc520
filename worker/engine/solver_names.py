"""The names of diffusers' schedulers in A1111's web UI. Other tools read these names in an image's metadata.

The names come from diffusers' table (https://huggingface.co/docs/diffusers/api/schedulers/overview)
and from A1111's `modules/sd_samplers_kdiffusion.py`, `sd_samplers_timesteps.py` and
`sd_schedulers.py`.
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
    """Return the sampler and the schedule type of a scheduler, by its class and its configuration.

    A sampler that A1111 does not have keeps the name of its class. A schedule type that A1111 has
    no name for is empty.
    """
    sampler = SAMPLERS.get(class_name, class_name)
    # This scheduler has many variants. A1111 has names for two of them.
    match class_name, config.get("algorithm_type"):
        case "DPMSolverMultistepScheduler", "sde-dpmsolver++":
            sampler = "DPM++ 2M SDE"
        case "DPMSolverMultistepScheduler", other if other not in (None, "dpmsolver++"):
            sampler = class_name
    schedules = [name for option, name in SCHEDULES.items() if config.get(option)]
    if not schedules and config.get("timestep_spacing") == "trailing":
        schedules = ["SGM Uniform"]
    return sampler, schedules[0] if schedules else ""
