"""What the load will be, request by request: fixed before the first is sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.lib import arrivals
from benchmarks.load import corpus
from benchmarks.load.corpus import Mix, Popularity

DEFAULT: Final = Mix(("default",), (1.0,))
LONG_POLL: Final = Mix(("wait",), (1.0,))
EVERYONE: Final = Mix(("public",), (1.0,))


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the server. `repeats` is the share of requests that were made before; `tenants` maps a name to its
    API key, if it needs one."""

    arrivals: str = "poisson"
    burstiness: float = 4.0
    trace: Path | None = None
    prompts: Path | None = None
    universe: int = 100_000
    repeats: float = 0.3
    sizes: Mix = DEFAULT
    steps: Mix = DEFAULT
    modes: Mix = LONG_POLL
    tenants: Mix = EVERYONE
    model: str | None = None
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Planned:
    """One request: when, as whom, how, and what. `label` names its class."""

    number: int
    at_s: float
    mode: str
    label: str
    tenant: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Schedule:
    requests: list[Planned]
    popularity: Popularity
    duration_s: float


def schedule(load: Load, rate: float, duration_s: float, epoch: int) -> Schedule:
    """The requests of `duration_s` seconds at `rate` a second. Equal arguments, equal schedule."""
    rng = np.random.default_rng([load.seed, epoch])
    times = arrivals.make(load.arrivals, rate, duration_s, rng, load.burstiness, load.trace)
    count = len(times)
    popularity = corpus.draw(count, load.universe, load.repeats, rng)
    sizes, steps = load.sizes.draw_for(popularity.ranks, rng), load.steps.draw_for(popularity.ranks, rng)
    modes, tenants = load.modes.draw(count, rng), load.tenants.draw(count, rng)
    made = corpus.bodies(popularity.ranks.tolist(), corpus.prompts(load.prompts), sizes, steps, epoch)
    requests = []
    for number, (at_s, body) in enumerate(zip(times.tolist(), made, strict=True)):
        if load.model is not None:
            body["model"] = load.model
        label = f"{sizes[number]} {steps[number]}"
        requests.append(Planned(number, at_s, modes[number], label, tenants[number], body))
    return Schedule(requests, popularity, duration_s)
