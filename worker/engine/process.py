"""The engine's process and what joins it to its host: the socket of orders and answers, and the pipes beside it."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Final

from contracts.settings import WorkerSettings
from worker.engine.memory_watchdog import OUTGROWN
from worker.engine.messages import BEGUN

END_S: Final = 5.0
DYING_S: Final = 0.5
_QUIET: Final = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
"""Their warnings are of parts that we do not use; what goes wrong, they raise."""


class EngineProcess:
    """One process, from its start to its end. One thread at a time speaks with it; `kill` and `wake` may come from any."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        connection: Connection[object, object],
        lifeline: int,
        begun: int,
        waking: tuple[int, int],
    ) -> None:
        self._process = process
        self._connection = connection
        self._lifeline = lifeline
        self._begun = begun
        self._woken, self._waker = waking
        self._lock = threading.Lock()
        self._dead = False
        self._last = (0, 0.0)

    @classmethod
    def start(cls, settings: WorkerSettings) -> EngineProcess:
        """A fresh one, which begins to load its model."""
        ours, theirs = socket.socketpair()
        _limit_waits(ours, settings.batch_timeout_s)
        lifeline, our_lifeline = os.pipe()
        our_begun, begun = os.pipe()
        waking = os.pipe()
        for end in (our_begun, *waking):
            os.set_blocking(end, False)
        given = (theirs.fileno(), lifeline, begun)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker.engine", *map(str, given)],
                pass_fds=given,
                env={**os.environ, **_QUIET, **_thread_limits(settings), **settings.to_env()},
                stdin=subprocess.DEVNULL,
            )
        os.close(lifeline)
        os.close(begun)
        return cls(process, Connection(ours.detach()), our_lifeline, our_begun, waking)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def killed(self) -> bool:
        return self._dead

    def send(self, word: object) -> bool:
        """Raises what pickling raises. That the process is gone is seen by `answer`. False: it reads nothing for as long as a pass may
        take, and has perhaps half of the word: it is of no use any more."""
        try:
            self._connection.send(word)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def ready(self, timeout_s: float) -> bool | None:
        """Waits until `answer` would not: True. None: it was woken before. False: the time is over."""
        try:
            found = wait([self._connection, self._woken], max(0.0, timeout_s))
        except OSError:
            return True
        if self._connection in found:
            return True
        if not found:
            return False
        # It may have been killed, and the pipe closed, meanwhile.
        with suppress(OSError):
            os.read(self._woken, 4096)
        return None

    def answer(self) -> object:
        """Its next word; None if it has not said one, hung up, or stopped in the middle of it for as long as a pass may take."""
        try:
            return self._connection.recv() if self._connection.poll(0) else None
        except (EOFError, OSError):
            return None

    def wake(self) -> None:
        """Ends `ready` early, from any thread."""
        with self._lock:
            if not self._dead:
                with suppress(BlockingIOError):
                    os.write(self._waker, b"!")

    def begun(self) -> tuple[int, float]:
        """The number of the last pass that it began, 0 for none, and when that was; known beyond its end."""
        with self._lock:
            self._hear()
            return self._last

    def status(self) -> int | None:
        """How it has ended; None: it runs."""
        try:
            # A process closes its socket a moment before it is gone.
            return self._process.wait(DYING_S)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End it now. One that does not die in time, for the kernel holds it, is given up all the same."""
        if self.killed:
            return
        # Outside of the lock: `wake` must not wait for that.
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        with self._lock:
            if self._dead:
                return
            self._hear()
            self._dead = True
            self._connection.close()
            for end in (self._lifeline, self._begun, self._woken, self._waker):
                os.close(end)

    def _hear(self) -> None:
        with suppress(BlockingIOError):
            while not self._dead and (told := os.read(self._begun, 64 * BEGUN.size)):
                self._last = BEGUN.unpack(told[-BEGUN.size :])


def _limit_waits(end: socket.socket, seconds: float) -> None:
    """Let no read and no write of a part of a word take longer. That a word begins is waited for elsewhere."""
    whole, rest = divmod(max(1, round(seconds * 1e6)), 1_000_000)
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        end.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, rest))


def end_of(status: int) -> str:
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
