"""What becomes of a batch that failed as a whole: one bad image must fail alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")


class Failure(StrEnum):
    FAULT = "fault"
    """The model raised."""
    CRASH = "crash"
    """The engine process died, or hung and was killed."""
    OUT_OF_MEMORY = "out_of_memory"


@dataclass(frozen=True, slots=True)
class Again:
    """Run the image again, with those of the same group alone."""

    group: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The image is the culprit: it fails."""


def after_failure(
    failure: Failure, groups: Sequence[int], crashes: Sequence[int], new_group: Callable[[], int]
) -> list[Again | GiveUp]:
    """The verdict on each image of the batch. `groups` are their present groups, `crashes` how many crashes each has
    lived through before this one.

    A fault costs little, so the culprit is found by bisection. A crash costs a restart of the engine: every image of the
    batch is then run alone, and the one under which it crashes again is given up. Out of memory is the batch's fault, not
    the images': they run again under a lower limit (`scheduler.limits`), unless one alone does not fit.
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
    """Those of `items` for whom `fails` holds, found by bisection; where it holds for a company and for none of its halves, all of
    that company. None where it does not hold for all of them together."""
    if not items or not fails(items):
        return []
    half = len(items) // 2
    found = bisect_failures(items[:half], fails) + bisect_failures(items[half:], fails) if half else []
    return found or list(items)
