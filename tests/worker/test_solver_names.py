"""The names that a picture's metadata gives to solvers."""

from __future__ import annotations

import diffusers
import pytest

from worker.engine.solver_names import SAMPLERS, names_of


@pytest.mark.parametrize(
    ("class_name", "config", "names"),
    [
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, ("Euler", "SGM Uniform")),
        (
            "EulerDiscreteScheduler",
            {"timestep_spacing": "leading", "use_karras_sigmas": False},
            ("Euler", ""),
        ),
        ("PNDMScheduler", {"timestep_spacing": "leading"}, ("PLMS", "")),
        (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True, "timestep_spacing": "trailing"},
            ("DPM++ 2M", "Karras"),
        ),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, ("DPM++ 2M SDE", "")),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}, ("DPMSolverMultistepScheduler", "")),
        ("TCDScheduler", {}, ("TCDScheduler", "")),
    ],
)
def test_names(class_name: str, config: dict[str, object], names: tuple[str, str]) -> None:
    assert names_of(class_name, config) == names


def test_every_class_is_one_of_diffusers() -> None:
    for class_name in SAMPLERS:
        assert isinstance(getattr(diffusers, class_name), type)
