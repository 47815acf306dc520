"""How samples walk down the noise levels: each by its own schedule and state, all in one pass.

A sample's `SolverState` is what it was given when it joined. The Euler solver has no memory, so that a step of a whole batch, each
sample at its own place of its own schedule, is one multiplication and addition; every other solver of diffusers keeps its
memory in a scheduler object, of which each sample gets a copy.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler

from contracts.models import AS_NAMED, StepCounts
from contracts.requests import steps_taken
from worker.engine.errors import ModelLoadError

SCHEDULES_KEPT: Final = 128
"""Step counts whose schedule is remembered."""
NUDGE: Final = 2.0**-40
"""Far above the error of a division, and far below what would round a timestep to another one."""


@dataclass(slots=True)
class SolverState:
    """A sample's way: how far it has come, of how many steps. `state` belongs to the sampler that made it."""

    steps: int
    init_noise_sigma: float
    """What unit noise is multiplied by to start."""
    state: Any
    step: int = 0
    """Steps that it has taken."""


class Sampler(Protocol):
    """One solver for all samples of a model. Latents and predictions are (B, C, h, w), float32."""

    def begin(self, steps: int, strength: float | None = None) -> SolverState:
        """The course of a sample for which `steps` are named, or of the share `strength` at their end. How many steps it has is
        the solver's to say. Raises `ValueError` where the solver cannot take `steps`."""
        ...

    def start(
        self, solver_state: SolverState, noise: torch.Tensor, image: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The latents before the first step: unit `noise` as strong as the course begins, over `image` if there is one."""
        ...

    def inputs(
        self, solver_states: Sequence[SolverState], latents: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model reads: the latents scaled, and the timesteps (B,)."""
        ...

    def step(
        self,
        solver_states: Sequence[SolverState],
        prediction: torch.Tensor,
        latents: torch.Tensor,
        generators: Sequence[torch.Generator],
    ) -> torch.Tensor:
        """The latents one step on; counts the step in each course."""
        ...

    def predict_x0(
        self, solver_state: SolverState, given: torch.Tensor, prediction: torch.Tensor
    ) -> torch.Tensor | None:
        """The latents without noise, as the model sees them now: of one sample, before its step is taken. `given` is what
        the model read, (1, C, h, w). None where the solver does not tell."""
        ...


def denoised(
    kind: str | None, root: float, given: torch.Tensor, prediction: torch.Tensor
) -> torch.Tensor | None:
    """The clean x of `given` = `root` x + sqrt(1 - `root`^2) noise, by a model's `prediction` of that `kind` (Salimans and Ho
    2022, section 4). Every solver of a model that was trained so scales what the model reads to this form. None for
    another kind."""
    noise: float = max(0.0, 1 - root**2) ** 0.5
    match kind:
        case "epsilon":
            return (given - noise * prediction) / root
        case "v_prediction":
            return root * given - noise * prediction
        case "sample" | "original_sample":
            return prediction
    return None


def set_steps(scheduler: Any, steps: int) -> None:
    """`scheduler.set_timesteps(steps)`, without the timestep -1 that it adds for 61, 103, 121, 122 ... steps.

    With trailing spacing diffusers 0.42 walks down from the last timestep by `numpy.arange` with a broken step, whose error lets
    one number too many in. A model has no timestep -1: some solvers read the last entry of their tables for it.
    """
    scheduler.set_timesteps(steps)
    if not _beyond_the_last(scheduler):
        return
    # A stride that is longer by less than rounds a timestep to another one ends just before the surplus number.
    scheduler.set_timesteps(steps * (1 - NUDGE))
    scheduler.num_inference_steps = steps


def _beyond_the_last(scheduler: Any) -> bool:
    config = scheduler.config
    # Continuous timesteps are logarithms of noise levels: they may be of any sign.
    by_index = config.get("timestep_spacing") == "trailing" and config.get("timestep_type") != "continuous"
    return by_index and float(scheduler.timesteps[-1]) == -1


def step_count(scheduler: Any, steps: int) -> int:
    """The denoising steps that `scheduler` takes where `steps` are named; 0 where it cannot. `scheduler` stays as it is."""
    own = copy.deepcopy(scheduler)
    try:
        set_steps(own, steps)
    except (ValueError, IndexError, ZeroDivisionError, RuntimeError):
        # What they raise where a schedule cannot be made of so few, or so many, steps.
        return 0
    return len(own.timesteps)


def step_counts(scheduler: Any, limit: int) -> StepCounts:
    """What `scheduler` makes of every count from 1 to `limit`, or to the last one that it can take. Raises `ModelLoadError` where it
    can take none."""
    taken = [step_count(scheduler, steps) for steps in range(1, limit + 1)]
    while taken and not taken[-1]:
        taken.pop()
    if not taken:
        name = type(scheduler).__name__
        raise ModelLoadError(f"The model's scheduler, {name}, makes no schedule of 1 to {limit} steps.")
    as_named = scheduler.order == 1 and taken == list(range(1, limit + 1))
    return AS_NAMED if as_named else StepCounts(taken=tuple(taken), order=scheduler.order)


def _skipped(scheduler: Any, steps: int, strength: float | None) -> int:
    """The denoising steps that are left out before those of `strength`, as in `get_timesteps` of diffusers' image-to-image pipelines."""
    return (steps - steps_taken(steps, strength)) * int(scheduler.order)


def sampler_of(scheduler: Any) -> Sampler:
    """The sampler that does what `scheduler`, of diffusers, does for one sample."""
    return EulerSampler(scheduler) if type(scheduler) is EulerDiscreteScheduler else CopySampler(scheduler)


class EulerSampler:
    """Algorithm 2 of Karras et al. 2022 ("Elucidating the Design Space of Diffusion-Based Generative Models") without churn.

    With the noise level sigma, the next one sigma', and the model's output m for the input c x, a step is x' = a x + b m. The
    coefficients depend on the schedule alone, and are worked out once per number of steps, in double precision.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._known: dict[int, tuple[float, tuple[tuple[float, ...], ...]]] = {}

    def begin(self, steps: int, strength: float | None = None) -> SolverState:
        if steps not in self._known:
            if len(self._known) >= SCHEDULES_KEPT:
                self._known.clear()
            self._known[steps] = self._schedule(steps)
        init_noise_sigma, rows = self._known[steps]
        if strength is not None:
            rows = rows[_skipped(self._scheduler, steps, strength) :]
            # c is 1 / sqrt(sigma^2 + 1)
            init_noise_sigma = (1 / rows[0][1] ** 2 - 1) ** 0.5
        return SolverState(len(rows), init_noise_sigma, rows)

    def start(
        self, solver_state: SolverState, noise: torch.Tensor, image: torch.Tensor | None = None
    ) -> torch.Tensor:
        noise = noise * solver_state.init_noise_sigma
        return noise if image is None else image + noise

    def inputs(
        self, solver_states: Sequence[SolverState], latents: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self._rows(solver_states, latents.device)
        return latents * rows[1].view(-1, 1, 1, 1), rows[0]

    def step(
        self,
        solver_states: Sequence[SolverState],
        prediction: torch.Tensor,
        latents: torch.Tensor,
        generators: Sequence[torch.Generator],
    ) -> torch.Tensor:
        rows = self._rows(solver_states, latents.device)
        for solver_state in solver_states:
            solver_state.step += 1
        return torch.addcmul(latents * rows[2].view(-1, 1, 1, 1), prediction, rows[3].view(-1, 1, 1, 1))

    def predict_x0(
        self, solver_state: SolverState, given: torch.Tensor, prediction: torch.Tensor
    ) -> torch.Tensor | None:
        c: float = solver_state.state[solver_state.step][1]
        return denoised(self._scheduler.config.prediction_type, c, given, prediction)

    @staticmethod
    def _rows(solver_states: Sequence[SolverState], device: torch.device) -> torch.Tensor:
        """(4, B): timestep, c, a, b."""
        return torch.tensor(
            [solver_state.state[solver_state.step] for solver_state in solver_states], device=device
        ).T

    def _schedule(self, steps: int) -> tuple[float, tuple[tuple[float, ...], ...]]:
        scheduler = self._scheduler
        set_steps(scheduler, steps)
        sigmas: list[float] = scheduler.sigmas.tolist()
        timesteps: list[float] = scheduler.timesteps.tolist()
        rows = []
        for timestep, sigma, after in zip(timesteps, sigmas[:-1], sigmas[1:], strict=True):
            down = after - sigma
            match scheduler.config.prediction_type:
                case "epsilon":
                    a, b = 1.0, down
                case "v_prediction":
                    a = 1 + down * sigma / (sigma**2 + 1)
                    b = down / (sigma**2 + 1) ** 0.5
                case "sample" | "original_sample":
                    a, b = 1 + down / sigma, -down / sigma
                case other:
                    raise ValueError(
                        f"The scheduler predicts {other!r}, which the Euler solver does not know."
                    )
            rows.append((timestep, 1 / (sigma**2 + 1) ** 0.5, a, b))
        return float(scheduler.init_noise_sigma), tuple(rows)


class CopySampler:
    """Any scheduler of diffusers: a copy for each sample, which holds its history and its place. A course's state is that
    copy, and the timesteps of the course."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._takes = {"eta", "generator"} & set(inspect.signature(scheduler.step).parameters)

    def begin(self, steps: int, strength: float | None = None) -> SolverState:
        own = copy.deepcopy(self._scheduler)
        set_steps(own, steps)
        skipped = _skipped(own, steps, strength)
        if strength is not None and hasattr(own, "set_begin_index"):
            own.set_begin_index(skipped)
        times = own.timesteps[skipped:]
        return SolverState(len(times), float(own.init_noise_sigma), (own, times))

    def start(
        self, solver_state: SolverState, noise: torch.Tensor, image: torch.Tensor | None = None
    ) -> torch.Tensor:
        if image is None:
            return noise * solver_state.init_noise_sigma
        own, times = solver_state.state
        started: torch.Tensor = own.add_noise(image, noise, times[:1])
        return started

    def inputs(
        self, solver_states: Sequence[SolverState], latents: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        times = [solver_state.state[1][solver_state.step] for solver_state in solver_states]
        scaled = [
            solver_state.state[0].scale_model_input(part, time)
            for solver_state, part, time in zip(solver_states, latents.split(1), times, strict=True)
        ]
        return torch.cat(scaled), torch.stack(times).to(latents.device)

    def step(
        self,
        solver_states: Sequence[SolverState],
        prediction: torch.Tensor,
        latents: torch.Tensor,
        generators: Sequence[torch.Generator],
    ) -> torch.Tensor:
        moved = []
        for solver_state, output, part, generator in zip(
            solver_states, prediction.split(1), latents.split(1), generators, strict=True
        ):
            given = {"eta": 0.0, "generator": generator}
            extra = {name: given[name] for name in self._takes}
            own, times = solver_state.state
            moved.append(own.step(output, times[solver_state.step], part, **extra, return_dict=False)[0])
            solver_state.step += 1
        return torch.cat(moved)

    def predict_x0(
        self, solver_state: SolverState, given: torch.Tensor, prediction: torch.Tensor
    ) -> torch.Tensor | None:
        scheduler, times = solver_state.state
        signal = getattr(scheduler, "alphas_cumprod", None)
        if signal is None:
            return None
        # Timesteps may lie between those that the model was trained at.
        root = float(np.interp(float(times[solver_state.step]), range(len(signal)), signal.tolist())) ** 0.5
        return denoised(getattr(scheduler.config, "prediction_type", None), root, given, prediction)
