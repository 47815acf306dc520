"""What an arm's processes have used, read from /proc: CPU, resident memory, and how long an engine's core was its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from benchmarks.arms.deployment import Arm
from benchmarks.cores import cores

PARTS: Final = ("api", "worker", "redis", "rabbitmq")


def family(root: psutil.Process) -> list[psutil.Process]:
    return [root, *root.children(recursive=True)]


def parts(arm: Arm) -> dict[str, list[psutil.Process]]:
    """The processes of each part of the platform. The worker's leave out its engine, which draws."""
    engine = arm.worker.engine
    return {
        "api": family(arm.api),
        "worker": [each for each in family(arm.worker.process) if each != engine],
        **{name: [each for root in roots for each in family(root)] for name, roots in arm.services.items()},
    }


def cpu_s(arm: Arm) -> dict[str, float]:
    """CPU seconds so far of each part, children that have ended included."""
    return {name: sum(map(_cpu_s, processes)) for name, processes in parts(arm).items()}


def _cpu_s(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def resident_mb(processes: Iterable[psutil.Process]) -> float:
    """Resident memory together, in MB (10^6 bytes)."""
    return sum(each.memory_info().rss for each in processes) / 1e6


def on_core_s(process: psutil.Process) -> float:
    """Seconds that the process's threads have run or stood ready to run (`/proc/PID/task/*/schedstat`)."""
    total_ns = 0
    for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            ran, ready, _ = path.read_text().split()
            total_ns += int(ran) + int(ready)
    return total_ns / 1e9


def place(arms: Iterable[Arm], alone: str) -> None:
    """Pins what `alone` names of each arm, "engine" or "api", to a core of its own, and everything else and ourselves to the others."""
    own, rest = cores()
    _move([psutil.Process()], rest)
    for arm in arms:
        engine = arm.worker.engine
        chosen = [engine] if alone == "engine" else family(arm.api)
        everything = [engine, *(each for processes in parts(arm).values() for each in processes)]
        _move([each for each in everything if each not in chosen], rest)
        _move(chosen, own)


def _move(processes: Iterable[psutil.Process], to: list[int]) -> None:
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            for thread in each.threads():
                with suppress(OSError):
                    os.sched_setaffinity(thread.id, to)


def leave_the_engines_core() -> None:
    """What starts from now on does not run where engines and APIs are to be alone."""
    _move([psutil.Process()], cores()[1])
