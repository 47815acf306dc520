"""What host and engine process say to each other, pickled over a socket pair. Both ends are ours and of one version."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.engine import BatchKey, ImageFault, ImageTask, Pixels
from contracts.models import ModelSpec
from scheduler.recovery import Failure


@dataclass(frozen=True, slots=True)
class Ready:
    """First word of the engine: it has loaded its model."""

    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class Unloadable:
    """First word of an engine that has no use."""

    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    key: BatchKey
    tasks: list[ImageTask]


@dataclass(frozen=True, slots=True)
class Done:
    """One entry per task, in order; `seconds` on the device."""

    images: list[Pixels | ImageFault]
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The batch as a whole failed; the engine is well."""

    failure: Failure
    reason: str
