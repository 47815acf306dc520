"""Which process runs on which core: ratios mean something only if the parts do not slow each other."""

from __future__ import annotations

import os
from functools import cache

import psutil


@cache
def cores() -> tuple[list[int], list[int]]:
    """The core of the engine, and those of everything else: of what this process had when it began."""
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        raise SystemExit("This benchmark needs two cores: one for the engine alone.")
    return mine[-1:], mine[:-1]


def pin(root: int, engine: int) -> None:
    """The engine to its core, `root` and all else below it to the others."""
    own, rest = cores()
    for each in [psutil.Process(root), *psutil.Process(root).children(recursive=True)]:
        for thread in each.threads():
            os.sched_setaffinity(thread.id, own if each.pid == engine else rest)
