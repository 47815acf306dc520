"""The list of faults, at its end: restarts under load for as long as one likes."""

from __future__ import annotations

import signal
import time
from typing import Final

import psutil

from tests.faults.round import Round, Row

SOAK: Final = 41
RATE: Final = 10.0
"""Jobs per second, far below what the workers can do."""
RESTARTS: Final = 6
LONGEST_S: Final = 300.0
"""Between two restarts."""
WARM_SHARE: Final = 1 / 3
"""Of the soak: meanwhile what a process remembers fills up to its bounds."""
GROWTH_MIB: Final = 20.0
GROWTH_FILES: Final = 40


class Flatness:
    """Memory and open files of every process, from its first look on."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, int], tuple[float, int]] = {}
        self._last: dict[tuple[str, int], tuple[float, int]] = {}

    def look(self, one: Round) -> None:
        for name, running in one.site.processes.items():
            process = psutil.Process(running.pid)
            now = process.memory_info().rss / 2**20, process.num_fds()
            self._first.setdefault((name, running.pid), now)
            self._last[name, running.pid] = now

    def judge(self, one: Round) -> None:
        for (name, pid), (mebibytes, files) in self._first.items():
            mebibytes_then, files_then = self._last[name, pid]
            grown, opened = mebibytes_then - mebibytes, files_then - files
            if name == "api":
                one.note("api_mib", mebibytes)
                one.note("api_grew_mib", grown)
                one.note("api_opened_files", opened)
            one.find(grown < GROWTH_MIB, f"{name} grew by {grown:.0f} MiB")
            one.find(opened < GROWTH_FILES, f"{name} holds {opened} more files")


def _strike(one: Round, what: str) -> None:
    one.fault(f"restart {what}")
    if what == "rabbit":
        one.site.rabbit.send(signal.SIGKILL)
        one.site.rabbit.start()
    elif what == "redis":
        one.site.state.send(signal.SIGKILL)
        one.site.state.start()
    else:
        one.site.stop(what)
    one.site.ensure()
    one.healed()


def soak(one: Round) -> None:
    """A restart every five minutes, or six in all; after a third of the time the memory and the open files of all our processes
    stay flat. `jobs` is the length in minutes."""
    flat = Flatness()
    every_s = min(LONGEST_S, 60.0 * one.jobs / RESTARTS)
    begun = time.monotonic()
    until, warm = begun + 60 * one.jobs, begun + 60 * one.jobs * WARM_SHARE
    while time.monotonic() < until:
        jobs = int(every_s * RATE)
        load = one.load(seconds=every_s, jobs=jobs, prompt="slow=0.1")
        load.after(jobs // 4, timeout_s=every_s)
        if time.monotonic() >= warm:
            flat.look(one)
        load.after(int(jobs * one.rng.uniform(0.3, 0.6)), timeout_s=every_s)
        _strike(one, one.rng.choice(("worker-1", "worker-2", "rabbit", "redis")))
        load.join()
        if time.monotonic() >= warm:
            flat.look(one)
    flat.judge(one)
    one.end(follow_s=600.0)


LONG_ROWS: Final = (Row(SOAK, "restarts under load for a long time (minutes)", "ALDTR", soak, jobs=30),)
