"""A day of users, simulated; and further days, to see what of it is chance."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.plan import summary
from benchmarks.plan.fleet import Simulation
from benchmarks.plan.options import config_of, device_of
from benchmarks.plan.state import Config, Outcome
from benchmarks.plan.summary import Service
from benchmarks.plan.traffic import Traffic, traffic

OF_A_DAY: Final = (
    "gpu_hours_over_clairvoyant",
    "within_slo",
    "computed_within_slo",
    "gpu_hours_per_day",
    "p99_ms",
)
"""What is told of days that are drawn anew."""


@dataclass(frozen=True, slots=True)
class Day:
    """One simulated day and how long it took to simulate, in seconds of the processor."""

    traffic: Traffic
    outcome: Outcome
    took_s: float


def day(args: argparse.Namespace, users: float) -> tuple[Day, Config]:
    """A day of that many users."""
    begun = time.process_time()
    rng = np.random.default_rng(args.seed)
    duration_s = args.hours * 3600
    comes = traffic(
        users * args.images_per_day,
        duration_s,
        args.repeats,
        args.ttl_hours * 3600,
        rng,
        args.swing,
        args.universe,
    )
    computed = comes.times[comes.computed]
    device = device_of(args)
    span_s = min(600.0, duration_s)
    first = float(np.searchsorted(computed, span_s)) / span_s * device.per_image_s(args.max_batch)
    config = config_of(args, device, first)
    outcome = Simulation(computed.tolist(), config, rng).run(duration_s)
    return Day(comes, outcome, time.process_time() - begun), config


def drawn_anew(args: argparse.Namespace, service: Service) -> list[dict[str, float]]:
    """Figures of further days, each from a seed of its own: what of the plan is chance."""
    found = []
    for seed in range(args.seed + 1, args.seed + 1 + args.more_days):
        done, config = day(argparse.Namespace(**{**vars(args), "seed": seed}), args.users)
        figures = summary.figures(done.traffic, done.outcome, config, service, args.hours * 3600)
        found.append({"seed": seed, **{name: figures[name] for name in OF_A_DAY}})
    return found
