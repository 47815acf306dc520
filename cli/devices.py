"""`darkroom worker --devices`: starts and supervises one worker process per device."""

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
"""Seconds before a dead worker is restarted: first, second, and every later time."""
HEALTHY_S: Final = 60.0
"""After this many seconds of running, the pauses begin again with the first."""
POLL_S: Final = 0.2
METRICS_PORT: Final = "DARKROOM_METRICS_PORT"

_LIST: Final = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")


def environments(devices: str) -> list[dict[str, str]]:
    """Returns the environment variables of each worker.

    `devices` is `all` GPUs, a list of GPUs (`0,1`), or `cpu:N` for N workers on the CPU. Raises
    `ServiceError` for any other value, and if `all` finds no GPU.
    """
    if match := re.fullmatch(r"cpu(?::([1-9]\d{0,2}))?", devices):
        return [{"DARKROOM_DEVICE": "cpu"}] * int(match[1] or 1)
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
        indices = subprocess.run(_LIST, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        indices = []
    if not indices:
        raise ServiceError("nvidia-smi finds no GPU here; --devices cpu:N starts workers on the CPU.")
    return indices


@dataclass(slots=True)
class _Worker:
    environ: dict[str, str]
    process: subprocess.Popen[bytes]
    started_at: float
    restarts: int = 0
    due_at: float | None = None


class WorkerGroup:
    """The workers of one machine: started here, supervised by `watch`, ended by `stop`."""

    def __init__(self, environs: list[dict[str, str]], environ: Mapping[str, str]) -> None:
        ports = _metrics_ports(environ.get(METRICS_PORT, ""), len(environs))
        self._workers = [
            _start({**environ, **own, **port}) for own, port in zip(environs, ports, strict=True)
        ]

    def watch(self) -> None:
        """Restarts dead workers, without end.

        A worker that cannot run with its settings is not restarted. Raises `Unusable` when no
        worker is left.
        """
        while self._workers:
            self._workers = [worker for worker in self._workers if self._check(worker)]
            time.sleep(POLL_S)
        raise Unusable("No worker can run with its settings.")

    def stop(self) -> None:
        """Asks all workers to drain, and waits for them. Their drain timeout bounds the wait."""
        for worker in self._workers:
            worker.process.send_signal(signal.SIGTERM)
        for worker in self._workers:
            worker.process.wait()

    def _check(self, worker: _Worker) -> bool:
        """Restarts the worker if it is due. Returns False if it cannot run."""
        now = time.monotonic()
        if (code := worker.process.poll()) is None:
            if now - worker.started_at > HEALTHY_S:
                worker.restarts = 0
            return True
        if code == exit_codes.UNUSABLE:
            sys.stderr.write("A worker cannot run with its settings, and is not restarted.\n")
            return False
        if worker.due_at is None:
            delay_s = RESTART_S[min(worker.restarts, len(RESTART_S) - 1)]
            sys.stderr.write(f"A worker ended with {code}; restart in {delay_s:g} s.\n")
            worker.due_at = now + delay_s
            worker.restarts += 1
        elif now >= worker.due_at:
            restarted = _start(worker.environ)
            worker.process, worker.started_at, worker.due_at = restarted.process, restarted.started_at, None
        return True


def _metrics_ports(first: str, count: int) -> list[dict[str, str]]:
    """Returns each worker's port setting, counted up from the first.

    A value that is not a number is left to the worker, which refuses it.
    """
    if not (first.isascii() and first.isdigit()) or int(first) == 0:
        return [{}] * count
    return [{METRICS_PORT: str(port)} for port in range(int(first), int(first) + count)]


def _start(environ: dict[str, str]) -> _Worker:
    # A new session keeps a Ctrl-C at the terminal away from the worker: `stop` asks it to drain.
    process = subprocess.Popen([sys.executable, "-m", "worker"], env=environ, start_new_session=True)
    return _Worker(environ, process, time.monotonic())
