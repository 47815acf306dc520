"""What processes have used, read from /proc: CPU, resident memory, and how long a core was theirs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil


def family(root: psutil.Process) -> list[psutil.Process]:
    """A process and all that it has started."""
    return [root, *root.children(recursive=True)]


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """CPU seconds so far, with those of children that have ended."""
    total = 0.0
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


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
