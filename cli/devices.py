"""One worker process per device: what `darkroom worker --devices` starts and watches."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cli.children import Unusable
from cli.services.process import ServiceError
from contracts import exit_codes

RESTART_S: Final = (1.0, 5.0, 30.0)
"""Pauses before a worker that has died is started again; the last one for ever."""
HEALTHY_S: Final = 60.0
POLL_S: Final = 0.2
METRICS_PORT: Final = "DARKROOM_METRICS_PORT"

_LIST: Final = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")


def environments(devices: str) -> list[dict[str, str]]:
    """The variables of each worker: `all` GPUs, a list of them (`0,1`), or `cpu:N` workers on the processor.

    Raises `ServiceError` for anything else, and where `all` finds no GPU.
    """
    if found := re.fullmatch(r"cpu(?::([1-9]\d{0,2}))?", devices):
        return [{"DARKROOM_DEVICE": "cpu"}] * int(found[1] or 1)
    if devices == "all":
        numbers = _gpus()
    elif re.fullmatch(r"\d+(,\d+)*", devices):
        numbers = devices.split(",")
        if len(set(numbers)) < len(numbers):
            raise ServiceError(f"--devices {devices} names a device twice.")
    else:
        raise ServiceError(f"--devices must be all, a list of GPUs like 0,1, or cpu:N; not {devices!r}.")
    return [{"DARKROOM_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": number} for number in numbers]


def _gpus() -> list[str]:
    try:
        listed = subprocess.run(_LIST, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        listed = []
    if not listed:
        raise ServiceError("nvidia-smi finds no GPU here; --devices cpu:N starts workers on the processor.")
    return listed


@dataclass(slots=True)
class _Worker:
    environ: dict[str, str]
    process: subprocess.Popen[bytes]
    started_at: float
    restarts: int = 0
    due_at: float | None = None


class WorkerGroup:
    """The workers of one machine. `watch` until asked to end; each one drains by itself."""

    def __init__(self, environs: list[dict[str, str]], environ: Mapping[str, str]) -> None:
        ports = _metrics_ports(environ.get(METRICS_PORT, ""), len(environs))
        self._workers = [
            _start({**environ, **own, **port}) for own, port in zip(environs, ports, strict=True)
        ]

    def watch(self) -> None:
        """Starts again what has died, for ever, but for what cannot run as it is set up. Raises `Unusable` when none is left."""
        while self._workers:
            self._workers = [worker for worker in self._workers if self._check(worker)]
            time.sleep(POLL_S)
        raise Unusable("No worker can run as it is set up.")

    def stop(self) -> None:
        """Asks all to drain, and waits until they have: their own drain timeout bounds it."""
        for worker in self._workers:
            worker.process.send_signal(signal.SIGTERM)
        for worker in self._workers:
            worker.process.wait()

    def _check(self, worker: _Worker) -> bool:
        """Whether there is use in watching it any longer."""
        now = time.monotonic()
        if (code := worker.process.poll()) is None:
            if now - worker.started_at > HEALTHY_S:
                worker.restarts = 0
            return True
        if code == exit_codes.UNUSABLE:
            sys.stderr.write("A worker cannot run as it is set up, and is not started again.\n")
            return False
        if worker.due_at is None:
            delay_s = RESTART_S[min(worker.restarts, len(RESTART_S) - 1)]
            sys.stderr.write(f"A worker ended with {code}; next start in {delay_s:g} s.\n")
            worker.due_at = now + delay_s
            worker.restarts += 1
        elif now >= worker.due_at:
            again = _start(worker.environ)
            worker.process, worker.started_at, worker.due_at = again.process, again.started_at, None
        return True


def _metrics_ports(first: str, count: int) -> list[dict[str, str]]:
    """Each worker's own, counted up from the setting. What is no number each worker refuses by itself."""
    if not (first.isascii() and first.isdigit()) or int(first) == 0:
        return [{}] * count
    return [{METRICS_PORT: str(port)} for port in range(int(first), int(first) + count)]


def _start(environ: dict[str, str]) -> _Worker:
    # In a session of its own: a Ctrl-C at the terminal is ours to pass on.
    process = subprocess.Popen([sys.executable, "-m", "worker"], env=environ, start_new_session=True)
    return _Worker(environ, process, time.monotonic())
