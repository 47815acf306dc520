"""What the API takes of memory, as a container would count it, and what the chart allows it. Linux."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from benchmarks.report import ROOT

CHART: Final = ROOT / "helm" / "darkroom" / "values.yaml"
ESTABLISHED: Final = "01"
_LIMIT: Final = re.compile(r"^api:\n(?: .*\n|\n)*?    limits: \{ memory: (\d+)Mi \}$", re.MULTILINE)
_PEAK: Final = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def chart_limit_mb() -> float:
    """MiB that one API pod may take, by the chart."""
    found = _LIMIT.search(CHART.read_text(encoding="utf-8"))
    if found is None:
        raise RuntimeError(f"{CHART} does not say what the API may take.")
    return float(found[1])


def forget_peak(pid: int) -> None:
    """From here on `peak_mb` counts anew (proc_pid_clear_refs(5))."""
    for each in _with_children(pid):
        with suppress(ProcessLookupError):
            Path(f"/proc/{each}/clear_refs").write_text("5", encoding="ascii")


def peak_mb(pid: int) -> float:
    """The most that the process and its children had in memory, in MiB."""
    total = 0
    for each in _with_children(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            found = _PEAK.search(Path(f"/proc/{each}/status").read_text(encoding="utf-8"))
            total += 0 if found is None else int(found[1])
    return total / 1024


def _with_children(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def connections(port: int) -> tuple[int, float]:
    """How many clients a server on `port` has, and MiB that its kernel holds in their queues (proc_pid_net(5)): memory of its
    container, which no process shows."""
    count = queued = 0
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        if state == ESTABLISHED and local.endswith(f":{port:04X}"):
            sent, received = queues.split(":")
            queued += int(sent, 16) + int(received, 16)
            count += 1
    return count, queued / 2**20
