"""What a simulated fleet is made of, and what comes of it."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field

from benchmarks.plan.autoscaler import Rule
from benchmarks.plan.devices import Device
from scheduler.policy import Sample


@dataclass(frozen=True, slots=True)
class Config:
    """`start` workers at the beginning; without a `rule` they are all there ever is. Lives are means of exponential times."""

    device: Device
    max_batch: int = 8
    rule: Rule | None = None
    start: int = 1
    start_up_s: float = 90.0
    life_s: float = math.inf
    """Until a worker crashes: its jobs come back when their leases lapse, itself after another start-up."""
    lease_s: float = 10.0
    spot_share: float = 0.0
    spot_life_s: float = 8 * 3600.0
    """Until the cloud takes a spot device back, with notice enough to finish the pass that runs."""
    ttl_s: float = 300.0


@dataclass(slots=True, eq=False)
class Worker:
    """`hand` holds jobs, `samples` the same as the policy sees them; `batch` indexes those of the pass that runs."""

    spot: bool
    born: float
    ready: bool = False
    gone: bool = False
    draining: bool = False
    hand: list[int] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    batch: tuple[int, ...] = ()
    begun: int = 0
    ripe_s: float = 0.0
    """When it takes again, while a pass runs."""
    looks: bool = False
    """Whether it has been simulated that it will look by itself."""
    life: int = 0
    """Counts its crashes: a pass of an earlier life does not end."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The fleet at one poll."""

    at_s: float
    workers: int
    ready: int
    waiting: int
    arrived: int


@dataclass(slots=True)
class Outcome:
    """`ended[i]` is when job i was drawn; NaN: it was not. Hours count from the order of a device to its end."""

    ended: array[float]
    batches: Counter[int] = field(default_factory=Counter)
    ticks: list[Tick] = field(default_factory=list)
    hours: float = 0.0
    spot_hours: float = 0.0
    busy_s: float = 0.0
    crashes: int = 0
    most_workers: int = 0
