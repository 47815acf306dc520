"""The host: starts the engine process, hands it passes, and kills it when it crashes or hangs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from enum import StrEnum
from multiprocessing.connection import Connection
from typing import Final

from contracts.engine import Pass
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from scheduler.recovery import Failure
from telemetry import metrics
from worker.engine.outgrown import OUTGROWN
from worker.engine.wire import Done, Failed, Ready, Unloadable
from worker.naming import model_name

END_S: Final = 5.0
DYING_S: Final = 0.5
_QUIET: Final = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
"""Their warnings are of parts that we do not use; what goes wrong, they raise."""


class LoadFailure(StrEnum):
    """Why an engine did not come to serve: it said so, its process ended, or the time was over."""

    UNLOADABLE = "unloadable"
    DIED = "died"
    TIMEOUT = "timeout"


class EngineUnloadable(Exception):
    """The engine cannot load its model: there is no use in going on. `may_pass`: a later start may succeed."""

    def __init__(self, reason: str, *, may_pass: bool = False) -> None:
        super().__init__(reason)
        self.may_pass = may_pass


class EngineDied(EngineUnloadable):
    """The engine's process ended before it had loaded its model, and said nothing: the next one may do better."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, may_pass=True)


class EngineHost:
    """One engine process at a time. One thread at a time may call `start` and `run`; `kill` may come from any."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[object, object] | None = None
        self._lifeline: int | None = None

    @property
    def pid(self) -> int | None:
        """The engine's process, for measurements and fault tests."""
        process = self._process
        return None if process is None else process.pid

    def start(self) -> ModelSpec:
        """A fresh process, its model loaded. Raises `EngineUnloadable`, or `EngineDied`, which is one."""
        for cause in LoadFailure:
            # Known from the start, or a rate would miss the first.
            self._failed_to_load(cause, 0)
        self.kill()
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker.engine", str(theirs.fileno()), str(read_end)],
                pass_fds=(theirs.fileno(), read_end),
                env={**os.environ, **_QUIET, **_thread_limits(self._settings), **self._settings.to_env()},
                stdin=subprocess.DEVNULL,
            )
        os.close(read_end)
        with self._lock:
            self._process, self._lifeline = process, write_end
            self._connection = Connection(ours.detach())
        answer = self._answer(self._settings.load_timeout_s)
        if isinstance(answer, Ready):
            return answer.spec
        if isinstance(answer, Unloadable):
            self.kill()
            self._failed_to_load(LoadFailure.UNLOADABLE)
            raise EngineUnloadable(answer.reason, may_pass=answer.may_pass)
        status = self._status()
        self.kill()
        if status is not None:
            self._failed_to_load(LoadFailure.DIED)
            raise EngineDied(f"The engine {_end_of(status)} while it loaded its model.")
        self._failed_to_load(LoadFailure.TIMEOUT)
        raise EngineUnloadable(
            f"The engine did not load its model within {self._settings.load_timeout_s:g} s.", may_pass=True
        )

    def run(self, batch: Pass) -> Done | Failed:
        """The engine's answer. One that dies or does not answer in time is killed; `start` it again before the next batch."""
        connection = self._connection
        if connection is None:
            return Failed(Failure.CRASH, "The engine process is gone.")
        try:
            connection.send(batch)
        except OSError:
            answer = None
        else:
            try:
                answer = self._answer(self._settings.batch_timeout_s)
            except BaseException:
                # What was read halfway would be taken for the answer to the next batch.
                self.kill()
                raise
        if isinstance(answer, Done | Failed):
            return answer
        reason = "The engine process died." if self._ended() else "The engine hung."
        self.kill()
        return Failed(Failure.CRASH, reason)

    def kill(self) -> None:
        """End the process now, if there is one. A `run` in progress answers `CRASH`."""
        with self._lock:
            process, lifeline = self._process, self._lifeline
            self._process = self._lifeline = None
            connection, self._connection = self._connection, None
        if process is None:
            return
        process.kill()
        process.wait(END_S)
        if connection is not None:
            connection.close()
        if lifeline is not None:
            os.close(lifeline)

    def _ended(self) -> bool:
        return self._process is None or self._status() is not None

    def _status(self) -> int | None:
        """How the process has ended; None: it runs, or there is none."""
        process = self._process
        try:
            # A process closes its socket a moment before it is gone.
            return None if process is None else process.wait(DYING_S)
        except subprocess.TimeoutExpired:
            return None

    def _failed_to_load(self, cause: LoadFailure, count: int = 1) -> None:
        metrics.ENGINE_LOAD_FAILURES.labels(model_name(self._settings), cause.value).inc(count)

    def _answer(self, timeout_s: float) -> object:
        """The next word of the engine; None when it hung up or the time is over."""
        connection = self._connection
        if connection is None:
            return None
        try:
            return connection.recv() if connection.poll(timeout_s) else None
        except (EOFError, OSError):
            return None


def _end_of(status: int) -> str:
    """What became of a process with this exit status, and why as a rule."""
    if status == -signal.SIGKILL:
        return "was killed (SIGKILL, as a rule for want of memory)"
    if status < 0:
        return f"was killed ({signal.Signals(-status).name})"
    if status == OUTGROWN:
        return "grew beyond DARKROOM_ENGINE_MEMORY_BYTES"
    return f"ended with status {status}"


def _thread_limits(settings: WorkerSettings) -> dict[str, str]:
    # Read by the mathematical libraries when they load. Threads that spin while they wait would starve each other.
    count = str(settings.torch_threads)
    return {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OMP_WAIT_POLICY": "PASSIVE"}
