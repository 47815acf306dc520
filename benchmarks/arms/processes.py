"""What the parts of an arm have used, and which of its processes has a core of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import psutil

from benchmarks.arms.deployment import Arm
from benchmarks.lib import processes
from benchmarks.lib.cores import isolate
from benchmarks.lib.processes import family

PARTS: Final = ("api", "worker", "redis", "rabbitmq")


def cpu_s(arm: Arm) -> dict[str, float]:
    """CPU seconds so far of each part, children that have ended included. The worker's leave out its engine, which draws."""
    engine = arm.worker.engine
    parts = {
        "api": family(arm.api),
        "worker": [each for each in family(arm.worker.process) if each != engine],
        **{name: [each for root in roots for each in family(root)] for name, roots in arm.services.items()},
    }
    return {name: processes.cpu_s(each) for name, each in parts.items()}


def place(arms: Iterable[Arm], alone: str) -> None:
    """Pins what `alone` names of each arm, "engine" or "api", to a core of its own, and everything else and ourselves to the others."""
    chosen: list[psutil.Process] = []
    for arm in arms:
        chosen += [arm.worker.engine] if alone == "engine" else family(arm.api)
    isolate(chosen)
