"""The messages between host and engine process, pickled over a socket pair. Both ends run the same version.

The host sends an `Order` and gets an `Answered` with its number. Answers come in the order of the
orders. At most two orders are pending: one runs, the other waits in the engine. When a batch begins,
the engine also writes a record to a pipe. The record outlives the engine, and tells which batch was
running when the engine died.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from contracts.engine import Advanced, Batch
from contracts.models import ModelSpec
from scheduler.recovery import Failure

BEGUN: Final = struct.Struct("=qd")
"""The record: the number of the batch, and its start in seconds of the monotonic clock.

All processes of the machine share that clock.
"""


@dataclass(frozen=True, slots=True)
class Order:
    """A batch to run. `ahead` is true if it was sent before the host knew the previous batch's answer."""

    number: int
    batch: Batch
    ahead: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine's first message: it has loaded its model."""

    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class LoadRefused:
    """The first message of an engine that cannot load its model.

    `may_pass`: another start may succeed with the same model and settings.
    """

    reason: str
    may_pass: bool


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of the `device` (`cuda` or `cpu`), in bytes: how much is in use, and how much there is."""

    device: str
    used_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class Done:
    """The batch ran. `samples` holds one entry per sample of the batch, in order.

    `seconds` is the time on the device. `memory_bytes` is its peak memory, None if the device does
    not report it.
    """

    samples: list[Advanced]
    seconds: float
    memory_bytes: int | None = None
    device: DeviceMemory | None = None
    """The memory in use after the batch, by all programs."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The whole batch failed. The engine still works, and has forgotten the samples of the batch."""

    failure: Failure
    reason: str


@dataclass(frozen=True, slots=True)
class Unrun:
    """The batch did not run, or its result is lost. Its images are not the cause.

    The previous batch failed, or the engine died during another batch.
    """

    reason: str


Answer = Done | Failed | Unrun
"""The outcome of a batch."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The outcome of the order with this number."""

    number: int
    answer: Answer
