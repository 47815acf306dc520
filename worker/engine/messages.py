"""What host and engine process say to each other, pickled over a socket pair. Both ends are ours and of one version.

The host sends an `Order` and gets an `Answered` with its number, in the order of what it sent. At most two orders are under way:
one runs, the next is at hand. When a pass begins, the engine also writes a record to a pipe. The record outlives the engine, and says
which pass was running when the engine died.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from contracts.engine import Advanced, Pass
from contracts.models import ModelSpec
from scheduler.recovery import Failure

BEGUN: Final = struct.Struct("=qd")
"""The number of the pass that begins, and when it does: seconds of the machine's monotonic clock, which all processes share."""


@dataclass(frozen=True, slots=True)
class Order:
    """A pass to run. `ahead`: it was sent before the answer to the one before it was known."""

    number: int
    batch: Pass
    ahead: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """First word of the engine: it has loaded its model."""

    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class LoadRefused:
    """First word of an engine that has no use. `may_pass`: another start may succeed without a change of anything of ours."""

    reason: str
    may_pass: bool


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes in use and in all of the `device`: `cuda`, or `cpu`."""

    device: str
    used_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class Done:
    """One entry per sample of the pass, in order; `seconds` on the device, and its peak memory where it tells."""

    samples: list[Advanced]
    seconds: float
    memory_bytes: int | None = None
    device: DeviceMemory | None = None
    """What is in use after the pass, by whomever."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The pass as a whole failed; the engine is well, and has forgotten its samples."""

    failure: Failure
    reason: str


@dataclass(frozen=True, slots=True)
class Unrun:
    """The pass did not run, or nothing is known of what it made, and its images have no part in that: the pass before it failed, or the
    engine died under another pass."""

    reason: str


Answer = Done | Failed | Unrun
"""What becomes of a pass."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of the pass of the order with this number."""

    number: int
    answer: Answer
