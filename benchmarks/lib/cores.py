"""Which process runs on which core: ratios mean something only if the parts do not slow each other."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

import psutil


@cache
def _mine() -> list[int]:
    """The cores that this process had when it first asked."""
    return sorted(os.sched_getaffinity(0))


def several() -> bool:
    """Whether there is a core that can be used alone."""
    return len(_mine()) > 1


def cores() -> tuple[list[int], list[int]]:
    """The core that is used alone, and the others. Raises `SystemExit` if there is only one."""
    mine = _mine()
    if not several():
        raise SystemExit("This benchmark needs two cores: one for the engine alone.")
    return mine[-1:], mine[:-1]


def isolate(alone: Iterable[psutil.Process]) -> None:
    """Moves `alone` to the core that is used alone; this process and whatever else it has started to the others."""
    own, rest = cores()
    chosen = list(alone)
    me = psutil.Process()
    _move([each for each in [me, *me.children(recursive=True)] if each not in chosen], rest)
    _move(chosen, own)


def stay_off() -> None:
    """Moves this process off the core that is used alone, and with it what it starts from now on."""
    _move([psutil.Process()], cores()[1])


def _move(processes: Iterable[psutil.Process], to: list[int]) -> None:
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            for thread in each.threads():
                with suppress(OSError):  # it has ended
                    os.sched_setaffinity(thread.id, to)
