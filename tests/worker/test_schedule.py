"""How many steps each solver takes, and which: as diffusers' own pipelines have it, for every count and strength.

Without networks: the pictures are `test_solvers.py`'s.
"""

from __future__ import annotations

import copy
import random

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from contracts.models import AS_NAMED, StepCounts
from contracts.requests import steps_taken
from tests.worker.schedulers import ALL, BASE, NAMES, NOT_HERE, made, mend, of_diffusers
from worker.engine.errors import ModelLoadError
from worker.engine.schedule import EulerSampler, Sampler, sampler_of, set_steps, step_count, step_counts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

MAX_STEPS = 100
WALKED = 8
STRENGTHS = (0.01, 0.05, 0.2, 0.3, 0.5, 0.8, 0.99, 1.0)
ONE_TOO_MANY = (61, 103, 121, 122, 201, 206)
"""Counts for which trailing spacing gives a timestep -1 more than was asked for."""
SAMPLE = (*range(1, 9), 25, 49, 50, 51, 61, 100)


def walked(sampler: Sampler, steps: int, strength: float | None) -> list[float]:
    """The timesteps that the model would be evaluated at, as the denoiser walks them."""
    solver_state = sampler.begin(steps, strength)
    latents, times = torch.zeros(1, 4, 2, 2), list[float]()
    generator = torch.Generator().manual_seed(0)
    while solver_state.step < solver_state.steps:
        given, time = sampler.inputs([solver_state], latents)
        times.append(float(time[0]))
        latents = sampler.step([solver_state], given, latents, [generator])
    assert torch.isfinite(latents).all()
    return times


def test_none_is_left_out_in_silence() -> None:
    compatible = {each.__name__ for each in BASE.compatibles}
    assert compatible <= set(NOT_HERE) | set(NAMES)
    assert len(NAMES) == 16


@pytest.mark.parametrize(("name", "flavour"), ALL)
def test_counts_and_timesteps_are_those_of_diffusers(
    name: str, flavour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = made(name, flavour)
    # Trailing spacing is where a count may surprise.
    tried = range(1, MAX_STEPS + 1) if flavour == "trailing" else SAMPLE
    counts = StepCounts(
        taken=tuple(step_count(scheduler, n) if n in tried else 0 for n in range(1, MAX_STEPS + 1)),
        order=scheduler.order,
    )
    sampler = sampler_of(copy.deepcopy(scheduler))
    mend(scheduler, monkeypatch)
    rng = random.Random(name + flavour)
    walks = {(rng.choice(SAMPLE[:WALKED]), rng.choice(STRENGTHS)) for _ in range(4)}
    for steps in tried:
        try:
            scheduler.set_timesteps(steps)
        except ValueError:
            assert counts.of(steps) == 0, f"what diffusers refuses is refused: {steps}"
            with pytest.raises(ValueError, match=r"."):
                sampler.begin(steps)
            continue
        whole = of_diffusers(scheduler, steps, None)
        assert counts.of(steps) == len(whole), steps
        for strength in STRENGTHS:
            if not steps_taken(steps, strength):
                assert counts.of(steps, strength) == 0
                continue
            times = of_diffusers(scheduler, steps, strength)
            assert counts.of(steps, strength) == len(times) >= 1, (steps, strength)
            if (steps, strength) in walks:
                assert walked(sampler, steps, strength) == pytest.approx(times), (steps, strength)


@pytest.mark.parametrize("name", NAMES)
def test_no_model_is_asked_at_a_timestep_that_it_has_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = made(name, "trailing")
    ours = copy.deepcopy(scheduler)
    mend(scheduler, monkeypatch)
    for steps in (60, 62, 99, 100, *ONE_TOO_MANY):
        try:
            scheduler.set_timesteps(steps)
        except ValueError:
            continue
        times = of_diffusers(scheduler, steps, None)
        set_steps(ours, steps)
        assert [float(time) for time in ours.timesteps] == pytest.approx(times), steps
        if name != "EDMEulerScheduler":  # whose timesteps are logarithms
            assert min(times) >= 0, steps
        assert isinstance(ours.num_inference_steps, int)


def test_diffusers_still_gives_one_too_many() -> None:
    scheduler = made("EulerDiscreteScheduler", "trailing")
    surplus = []
    for steps in range(1, 210):
        scheduler.set_timesteps(steps)
        surplus += [steps] if len(scheduler.timesteps) > steps else []
    assert surplus == list(ONE_TOO_MANY)


def test_continuous_timesteps_may_be_of_any_sign() -> None:
    scheduler = EulerDiscreteScheduler.from_config(
        BASE.config, timestep_type="continuous", timestep_spacing="trailing", prediction_type="v_prediction"
    )
    scheduler.set_timesteps(7)
    theirs = of_diffusers(scheduler, 7, None)
    set_steps(scheduler, 7)
    assert [float(time) for time in scheduler.timesteps] == theirs
    assert min(theirs) < 0


@pytest.mark.parametrize(
    ("name", "flavour", "counts"),
    [
        ("PNDMScheduler", "skip_prk", {1: 1, 2: 3, 4: 5, 50: 51}),
        ("PNDMScheduler", "leading", {1: 0, 3: 0, 4: 13, 50: 59}),
        ("HeunDiscreteScheduler", "leading", {1: 1, 2: 3, 50: 99}),
        ("KDPM2DiscreteScheduler", "leading", {1: 1, 2: 3, 50: 99}),
        ("LCMScheduler", "leading", {1: 1, 50: 50, 51: 0}),
        ("TCDScheduler", "leading", {1: 1, 50: 50, 51: 0}),
    ],
)
def test_what_is_known_of_single_solvers(name: str, flavour: str, counts: dict[int, int]) -> None:
    known = step_counts(made(name, flavour), MAX_STEPS)
    assert {steps: known.of(steps) for steps in counts} == counts


def test_a_solver_that_does_as_it_is_told_says_nothing() -> None:
    assert step_counts(made("EulerDiscreteScheduler", "trailing"), MAX_STEPS) == AS_NAMED
    assert AS_NAMED.of(61) == 61
    assert (AS_NAMED.of(10, 0.35), AS_NAMED.of(10, 0.05)) == (3, 0)


def test_image_to_image_leaves_out_whole_steps() -> None:
    heun = StepCounts(taken=(1, 3, 5, 7), order=2)
    assert [heun.of(4, strength) for strength in (0.2, 0.25, 0.5, 0.75, 1.0)] == [0, 1, 3, 5, 7]
    assert (heun.of(0), heun.of(5)) == (0, 0), "beyond what is known it can do nothing"


def test_a_solver_that_makes_no_schedule_is_refused_at_the_start() -> None:
    with pytest.raises(ModelLoadError, match="PNDMScheduler, makes no schedule of 1 to 3 steps"):
        step_counts(made("PNDMScheduler", "leading"), 3)


def test_schedules_of_one_solver_are_kept_apart() -> None:
    sampler = sampler_of(made("EulerDiscreteScheduler", "trailing"))
    assert isinstance(sampler, EulerSampler)
    assert [sampler.begin(steps).steps for steps in (61, 62, 61)] == [61, 62, 61]
