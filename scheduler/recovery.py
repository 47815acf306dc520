"""What happens to the images of a batch that failed as a whole: one bad image must fail alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")


class Failure(StrEnum):
    """How a batch failed as a whole."""

    FAULT = "fault"
    """The model raised an exception."""
    CRASH = "crash"
    """The engine process died, or hung and was killed."""
    OUT_OF_MEMORY = "out_of_memory"


@dataclass(frozen=True, slots=True)
class Again:
    """Run the image again, only together with images of the same group."""

    group: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The image is the culprit: it fails."""


def after_failure(
    failure: Failure, groups: Sequence[int], crashes: Sequence[int], new_group: Callable[[], int]
) -> list[Again | GiveUp]:
    """Decide on each image of the failed batch.

    `groups` are the images' current groups. `crashes` counts the earlier crashes of each image. `new_group`
    returns an unused group.

    A fault costs little, so the culprit is found by bisection. A crash costs a restart of the engine. Every
    image of the batch is then run alone, and an image that crashes again is given up. Out of memory is no
    fault of an image: all run again under a lower limit (`scheduler.limits`), unless one alone does not fit.
    """
    size = len(groups)
    match failure:
        case Failure.OUT_OF_MEMORY:
            return [GiveUp()] if size == 1 else [Again(group) for group in groups]
        case Failure.FAULT:
            if size == 1:
                return [GiveUp()]
            first, second = new_group(), new_group()
            return [Again(first if place < size // 2 else second) for place in range(size)]
        case Failure.CRASH:
            if size == 1 and crashes[0]:
                return [GiveUp()]
            return [Again(new_group()) for _ in range(size)]


def bisect_failures(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """The `items` for which `fails` holds, found by bisection.

    If it holds for a set of items but for neither half, the whole set is returned. Returns nothing if it
    does not hold for all items together.
    """
    if not items or not fails(items):
        return []
    half = len(items) // 2
    failing = bisect_failures(items[:half], fails) + bisect_failures(items[half:], fails) if half else []
    return failing or list(items)
