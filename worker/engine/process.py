"""The engine's process and its connection to the host: the socket of orders and answers, and the pipes."""

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
"""How long `kill` waits for the process to end."""
DYING_S: Final = 0.5
"""How long `status` waits for an exit status."""
_QUIET: Final = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
"""Their warnings concern parts that we do not use. Real failures raise."""


class EngineProcess:
    """One engine process, from its start to its end.

    One thread at a time may call the methods. `kill` and `wake` may be called from any thread.
    `connection` is the host's end of the socket. `lifeline` is a pipe that ends the engine when it
    closes. `begun` is the read end of the pipe of `BEGUN` records. `waking` is the pipe (read and
    write end) by which `wake` ends `ready`.
    """

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
        self._wake_read, self._wake_write = waking
        self._lock = threading.Lock()
        self._dead = False
        self._last_begun = (0, 0.0)

    @classmethod
    def start(cls, settings: WorkerSettings) -> EngineProcess:
        """Start a process, which begins to load its model. Raises `OSError` if it cannot be started."""
        host_socket, engine_socket = socket.socketpair()
        _limit_waits(host_socket, settings.batch_timeout_s)
        lifeline, our_lifeline = os.pipe()
        our_begun, begun = os.pipe()
        waking = os.pipe()
        for end in (our_begun, *waking):
            os.set_blocking(end, False)
        engine_fds = (engine_socket.fileno(), lifeline, begun)
        with engine_socket:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker.engine", *map(str, engine_fds)],
                pass_fds=engine_fds,
                env={**os.environ, **_QUIET, **_thread_limits(settings), **settings.to_env()},
                stdin=subprocess.DEVNULL,
            )
        os.close(lifeline)
        os.close(begun)
        return cls(process, Connection(host_socket.detach()), our_lifeline, our_begun, waking)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def killed(self) -> bool:
        """Whether `kill` has ended it."""
        return self._dead

    def send(self, message: object) -> bool:
        """Send a message. Raises what pickling raises.

        Returns False if the engine has read nothing for as long as a batch may take. It may then
        hold half of the message, so it must be killed. True if the process is gone: `answer` reports
        that.
        """
        try:
            self._connection.send(message)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def ready(self, timeout_s: float) -> bool | None:
        """Wait until `answer` can return at once.

        True: it can. None: `wake` was called first. False: `timeout_s` seconds are over.
        """
        try:
            readable = wait([self._connection, self._wake_read], max(0.0, timeout_s))
        except OSError:
            return True
        if self._connection in readable:
            return True
        if not readable:
            return False
        # `kill` may have closed the pipe meanwhile.
        with suppress(OSError):
            os.read(self._wake_read, 4096)
        return None

    def answer(self) -> object:
        """Return its next message.

        None if there is none, if the engine has hung up, or if it has stopped in the middle of a
        message for as long as a batch may take.
        """
        try:
            return self._connection.recv() if self._connection.poll(0) else None
        except (EOFError, OSError):
            return None

    def wake(self) -> None:
        """End `ready` early, from any thread."""
        with self._lock:
            if not self._dead:
                with suppress(BlockingIOError):
                    os.write(self._wake_write, b"!")

    def begun(self) -> tuple[int, float]:
        """Return the number of the last batch that it began and the start in seconds of the monotonic clock.

        The number is 0 if it has begun none. Both stay known after its end.
        """
        with self._lock:
            self._read_begun()
            return self._last_begun

    def status(self) -> int | None:
        """Return its exit status, as `Popen.returncode` gives it; None if it still runs."""
        try:
            # A process closes its socket a moment before it ends.
            return self._process.wait(DYING_S)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End the process now. If the kernel holds it for longer than `END_S`, it is abandoned."""
        if self.killed:
            return
        # Outside the lock: `wake` must not wait for the end of the process.
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        with self._lock:
            if self._dead:
                return
            self._read_begun()
            self._dead = True
            self._connection.close()
            for end in (self._lifeline, self._begun, self._wake_read, self._wake_write):
                os.close(end)

    def _read_begun(self) -> None:
        with suppress(BlockingIOError):
            while not self._dead and (records := os.read(self._begun, 64 * BEGUN.size)):
                self._last_begun = BEGUN.unpack(records[-BEGUN.size :])


def _limit_waits(end: socket.socket, seconds: float) -> None:
    """Limit each read and write of a part of a message. `ready` waits for the beginning of a message."""
    whole_seconds, microseconds = divmod(max(1, round(seconds * 1e6)), 1_000_000)
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        end.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole_seconds, microseconds))


def end_of(status: int) -> str:
    """Describe how a process with this exit status ended, as the predicate of a sentence."""
    if status == -signal.SIGKILL:
        return "was killed (SIGKILL, as a rule for want of memory)"
    if status < 0:
        return f"was killed ({signal.Signals(-status).name})"
    if status == OUTGROWN:
        return "grew beyond DARKROOM_ENGINE_MEMORY_BYTES"
    return f"ended with status {status}"


def _thread_limits(settings: WorkerSettings) -> dict[str, str]:
    # The mathematical libraries read these when they load. Threads that spin while they wait would starve
    # each other.
    count = str(settings.torch_threads)
    return {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OMP_WAIT_POLICY": "PASSIVE"}
