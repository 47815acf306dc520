"""What host and engine process say to each other, pickled over a socket pair. Both ends are ours and of one version.

The host sends a `contracts.engine.Pass` and gets a `Done` or a `Failed`.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.engine import Advanced
from contracts.models import ModelSpec
from scheduler.recovery import Failure


@dataclass(frozen=True, slots=True)
class Ready:
    """First word of the engine: it has loaded its model."""

    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class Unloadable:
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
