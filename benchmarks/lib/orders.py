"""In which order arms take their turns, so that neither place nor neighbour favours one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def orders(arms: Sequence[T], rounds: int) -> Iterator[tuple[T, ...]]:
    """An order of the arms for each round: every order equally often if there are rounds enough, else there and back in turn."""
    there = tuple(arms)
    enough = rounds >= math.factorial(len(there))
    chosen = itertools.permutations(there) if enough else (there, there[::-1])
    return itertools.islice(itertools.cycle(chosen), rounds)
