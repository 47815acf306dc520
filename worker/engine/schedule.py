"""Solvers, which take samples from one noise level to the next. Each sample has its own schedule and state.

A sample gets its `SolverState` when it joins. The Euler solver keeps no history. Its step for a
whole batch is therefore one multiplication and addition, although every sample is at another place
of another schedule. Every other solver of diffusers keeps its history in a scheduler object. Each
sample gets a copy of that object.
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
"""How many step counts have their schedule cached."""
NUDGE: Final = 2.0**-40
"""A relative change far above the error of a division. It is too small to round a timestep to another one."""


@dataclass(slots=True)
class SolverState:
    """A sample's progress through its schedule of `steps` denoising steps.

    `state` belongs to the sampler that made it.
    """

    steps: int
    init_noise_sigma: float
    """The factor of the unit noise at the start."""
    state: Any
    step: int = 0
    """How many steps it has taken."""


class Sampler(Protocol):
    """One solver for all samples of a model. Latents and model outputs are (B, C, h, w), float32."""

    def begin(self, steps: int, strength: float | None = None) -> SolverState:
        """Return the state of a new sample with the schedule of `steps` named steps.

        With a `strength`, only that share of the schedule is taken, at its end. The solver decides
        how many denoising steps that makes. Raises `ValueError` if the solver cannot take `steps`.
        """
        ...

    def start(
        self, solver_state: SolverState, noise: torch.Tensor, image: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the latents before the first step, (1, C, h, w), float32.

        They are the unit `noise`, scaled to the first noise level, added to `image` if there is
        one. `noise` and `image` (latents) are (1, C, h, w), float32.
        """
        ...

    def inputs(
        self, solver_states: Sequence[SolverState], latents: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the model's input: the scaled `latents` and the timesteps.

        `latents` and scaled latents are (B, C, h, w), float32. The timesteps are (B,), in float32 or in
        the dtype of the scheduler's timesteps.
        """
        ...

    def step(
        self,
        solver_states: Sequence[SolverState],
        model_output: torch.Tensor,
        latents: torch.Tensor,
        generators: Sequence[torch.Generator],
    ) -> torch.Tensor:
        """Return the latents after the step, and count the step in each solver state.

        `model_output`, `latents` and the result are (B, C, h, w), float32. `generators` are the
        samples' own, for solvers that add noise.
        """
        ...

    def predict_x0(
        self, solver_state: SolverState, model_input: torch.Tensor, model_output: torch.Tensor
    ) -> torch.Tensor | None:
        """Return the model's present prediction of one sample's clean latents, before its step is taken.

        `model_input` (the scaled latents), `model_output` and the result are (1, C, h, w), float32.
        None if the solver cannot tell.
        """
        ...


def denoised(
    prediction_type: str | None, alpha: float, model_input: torch.Tensor, model_output: torch.Tensor
) -> torch.Tensor | None:
    """Return the clean x of `model_input` = `alpha` x + sqrt(1 - `alpha`^2) noise.

    `model_output` is the model's prediction of that `prediction_type` (Salimans and Ho 2022,
    section 4). Every solver scales the model's input to this form, if the model was trained with
    one of these types. `model_input`, `model_output` and the result are (B, C, h, w), float32.
    None for another prediction type.
    """
    sigma: float = max(0.0, 1 - alpha**2) ** 0.5
    match prediction_type:
        case "epsilon":
            return (model_input - sigma * model_output) / alpha
        case "v_prediction":
            return alpha * model_input - sigma * model_output
        case "sample" | "original_sample":
            return model_output
    return None


def set_steps(scheduler: Any, steps: int) -> None:
    """Call `scheduler.set_timesteps(steps)`, without the timestep -1 that it adds for 61, 103, 121 ... steps.

    With trailing spacing, diffusers 0.42 counts down from the last timestep by `numpy.arange` with
    a fractional stride. The rounding error lets in one number too many. A model has no timestep -1:
    some solvers read the last entry of their tables for it. Raises what `set_timesteps` raises.
    """
    scheduler.set_timesteps(steps)
    if not _has_surplus_timestep(scheduler):
        return
    # A slightly longer stride ends just before the surplus number. It rounds every timestep as before.
    scheduler.set_timesteps(steps * (1 - NUDGE))
    scheduler.num_inference_steps = steps


def _has_surplus_timestep(scheduler: Any) -> bool:
    config = scheduler.config
    # Continuous timesteps are logarithms of noise levels, so they may be negative.
    by_index = config.get("timestep_spacing") == "trailing" and config.get("timestep_type") != "continuous"
    return by_index and float(scheduler.timesteps[-1]) == -1


def step_count(scheduler: Any, steps: int) -> int:
    """Return how many denoising steps `scheduler` takes for `steps` named steps; 0 if it cannot take them.

    `scheduler` is not changed.
    """
    scratch = copy.deepcopy(scheduler)
    try:
        set_steps(scratch, steps)
    except (ValueError, IndexError, ZeroDivisionError, RuntimeError):
        # Schedulers raise these if they cannot make a schedule of so few or so many steps.
        return 0
    return len(scratch.timesteps)


def step_counts(scheduler: Any, limit: int) -> StepCounts:
    """Return the denoising steps of every step count from 1 to `limit`.

    The counts end with the last one that `scheduler` can take. Raises `ModelLoadError` if it can
    take none.
    """
    taken = [step_count(scheduler, steps) for steps in range(1, limit + 1)]
    while taken and not taken[-1]:
        taken.pop()
    if not taken:
        name = type(scheduler).__name__
        raise ModelLoadError(f"The model's scheduler, {name}, makes no schedule of 1 to {limit} steps.")
    as_named = scheduler.order == 1 and taken == list(range(1, limit + 1))
    return AS_NAMED if as_named else StepCounts(taken=tuple(taken), order=scheduler.order)


def _skipped(scheduler: Any, steps: int, strength: float | None) -> int:
    """How many steps `strength` leaves out, as `get_timesteps` of diffusers' img2img pipelines counts."""
    return (steps - steps_taken(steps, strength)) * int(scheduler.order)


def sampler_of(scheduler: Any) -> Sampler:
    """Return the sampler that does for a batch what diffusers' `scheduler` does for one sample."""
    return EulerSampler(scheduler) if type(scheduler) is EulerDiscreteScheduler else CopySampler(scheduler)


class EulerSampler:
    """Euler's method: algorithm 2 of Karras et al. 2022, without churn.

    The paper is "Elucidating the Design Space of Diffusion-Based Generative Models". Let sigma be
    the noise level, sigma' the next one, and m the model's output for the input c x. Then a step is
    x' = a x + b m. The coefficients depend on the schedule alone. They are computed once per number
    of steps, in double precision.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._schedules: dict[int, tuple[float, tuple[tuple[float, ...], ...]]] = {}

    def begin(self, steps: int, strength: float | None = None) -> SolverState:
        """See `Sampler.begin`. The state holds one row per step: timestep, c, a, b."""
        if steps not in self._schedules:
            if len(self._schedules) >= SCHEDULES_KEPT:
                self._schedules.clear()
            self._schedules[steps] = self._schedule(steps)
        init_noise_sigma, rows = self._schedules[steps]
        if strength is not None:
            rows = rows[_skipped(self._scheduler, steps, strength) :]
            # c is 1 / sqrt(sigma^2 + 1)
            init_noise_sigma = (1 / rows[0][1] ** 2 - 1) ** 0.5
        return SolverState(len(rows), init_noise_sigma, rows)

    def start(
        self, solver_state: SolverState, noise: torch.Tensor, image: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the latents before the first step; all tensors are (1, C, h, w), float32."""
        noise = noise * solver_state.init_noise_sigma
        return noise if image is None else image + noise

    def inputs(
        self, solver_states: Sequence[SolverState], latents: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scaled latents, (B, C, h, w), float32 as `latents`, and the timesteps, (B,), float32."""
        rows = self._rows(solver_states, latents.device)
        return latents * rows[1].view(-1, 1, 1, 1), rows[0]

    def step(
        self,
        solver_states: Sequence[SolverState],
        model_output: torch.Tensor,
        latents: torch.Tensor,
        generators: Sequence[torch.Generator],
    ) -> torch.Tensor:
        """Return the latents after the step; all tensors are (B, C, h, w), float32. No generator is used."""
        rows = self._rows(solver_states, latents.device)
        for solver_state in solver_states:
            solver_state.step += 1
        return torch.addcmul(latents * rows[2].view(-1, 1, 1, 1), model_output, rows[3].view(-1, 1, 1, 1))

    def predict_x0(
        self, solver_state: SolverState, model_input: torch.Tensor, model_output: torch.Tensor
    ) -> torch.Tensor | None:
        """Return the predicted clean latents or None; all tensors are (1, C, h, w), float32."""
        c: float = solver_state.state[solver_state.step][1]
        return denoised(self._scheduler.config.prediction_type, c, model_input, model_output)

    @staticmethod
    def _rows(solver_states: Sequence[SolverState], device: torch.device) -> torch.Tensor:
        """(4, B), float32: timestep, c, a, b."""
        return torch.tensor(
            [solver_state.state[solver_state.step] for solver_state in solver_states], device=device
        ).T

    def _schedule(self, steps: int) -> tuple[float, tuple[tuple[float, ...], ...]]:
        scheduler = self._scheduler
        set_steps(scheduler, steps)
        sigmas: list[float] = scheduler.sigmas.tolist()
        timesteps: list[float] = scheduler.timesteps.tolist()
        rows = []
        for timestep, sigma, next_sigma in zip(timesteps, sigmas[:-1], sigmas[1:], strict=True):
            dt = next_sigma - sigma
            match scheduler.config.prediction_type:
                case "epsilon":
                    a, b = 1.0, dt
                case "v_prediction":
                    a = 1 + dt * sigma / (sigma**2 + 1)
                    b = dt / (sigma**2 + 1) ** 0.5
                case "sample" | "original_sample":
                    a, b = 1 + dt / sigma, -dt / sigma
                case other:
                    raise ValueError(
                        f"The scheduler predicts {other!r}, which the Euler solver does not know."
                    )
            rows.append((timestep, 1 / (sigma**2 + 1) ** 0.5, a, b))
        return float(scheduler.init_noise_sigma), tuple(rows)


class CopySampler:
    """Any scheduler of diffusers. Each sample has a copy, which holds its history and its place.

    `SolverState.state` holds that copy and its timesteps.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._step_options = {"eta", "generator"} & set(inspect.signature(scheduler.step).parameters)

    def begin(self, steps: int, strength: float | None = None) -> SolverState:
        """See `Sampler.begin`."""
        scheduler = copy.deepcopy(self._scheduler)
        set_steps(scheduler, steps)
        skipped = _skipped(scheduler, steps, strength)
        if strength is not None and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped)
        timesteps = scheduler.timesteps[skipped:]
        return SolverState(len(timesteps), float(scheduler.init_noise_sigma), (scheduler, timesteps))

    def start(
        self, solver_state: SolverState, noise: torch.Tensor, image: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the latents before the first step; all tensors are (1, C, h, w), float32."""
        if image is None:
            return noise * solver_state.init_noise_sigma
        scheduler, timesteps = solver_state.state
        latents: torch.Tensor = scheduler.add_noise(image, noise, timesteps[:1])
        return latents

    def inputs(
        self, solver_states: Sequence[SolverState], latents: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scaled latents, (B, C, h, w), float32 as `latents`, and the timesteps, (B,).

        The timesteps have the scheduler's dtype.
        """
        timesteps = [solver_state.state[1][solver_state.step] for solver_state in solver_states]
        scaled = [
            solver_state.state[0].scale_model_input(sample, timestep)
            for solver_state, sample, timestep in zip(solver_states, latents.split(1), timesteps, strict=True)
        ]
        return torch.cat(scaled), torch.stack(timesteps).to(latents.device)

    def step(
        self,
        solver_states: Sequence[SolverState],
        model_output: torch.Tensor,
        latents: torch.Tensor,
        generators: Sequence[torch.Generator],
    ) -> torch.Tensor:
        """Return the latents after the step; all tensors are (B, C, h, w), float32."""
        next_latents = []
        for solver_state, output, sample, generator in zip(
            solver_states, model_output.split(1), latents.split(1), generators, strict=True
        ):
            options = {"eta": 0.0, "generator": generator}
            extra = {name: options[name] for name in self._step_options}
            scheduler, timesteps = solver_state.state
            next_latents.append(
                scheduler.step(output, timesteps[solver_state.step], sample, **extra, return_dict=False)[0]
            )
            solver_state.step += 1
        return torch.cat(next_latents)

    def predict_x0(
        self, solver_state: SolverState, model_input: torch.Tensor, model_output: torch.Tensor
    ) -> torch.Tensor | None:
        """Return the predicted clean latents or None; all tensors are (1, C, h, w), float32."""
        scheduler, timesteps = solver_state.state
        alphas = getattr(scheduler, "alphas_cumprod", None)
        if alphas is None:
            return None
        # A timestep may lie between those that the model was trained at.
        alpha = (
            float(np.interp(float(timesteps[solver_state.step]), range(len(alphas)), alphas.tolist())) ** 0.5
        )
        return denoised(getattr(scheduler.config, "prediction_type", None), alpha, model_input, model_output)
