"""Starting, waiting for and ending the server processes of this folder."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

POLL_S: Final = 0.02
PR_SET_PDEATHSIG: Final = 1
FOLDER_SETTING: Final = "DARKROOM_SERVERS"


class ServiceError(Exception):
    """A server is missing or did not start; the message says what to do about it."""


def find_program(*names: str, folders: Sequence[str] = ()) -> str | None:
    """The path of the first program of `names` in `folders` or on the PATH. Where `DARKROOM_SERVERS` names a folder, it is looked
    for there alone: tests that ask for one version never run on another."""
    chosen = os.environ.get(FOLDER_SETTING)
    path = chosen or os.pathsep.join((*folders, os.environ.get("PATH", "")))
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def free_port() -> int:
    """A TCP port that nobody uses now, on any address: some of the servers listen on all of them."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, greeting: bytes = b"", expected: bytes = b"") -> bool:
    """Whether a server on the loopback `port` answers `greeting` with something that begins with `expected`."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            if not greeting:
                return True
            connection.sendall(greeting)
            return connection.recv(64).startswith(expected)
    except OSError:
        return False


def launch(
    command: list[str], folder: Path, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """The command as the leader of a process group of its own, in `cwd` or else in `folder`, its output in `folder/output.log`.
    On Linux it is asked to end when this process dies, however that happens."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=cwd or folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_end_with_this_process(),
        )


def _end_with_this_process() -> Callable[[], None] | None:
    """What a child does first, so that it outlives us in no case: prctl(2), PR_SET_PDEATHSIG. The kernel means the thread that
    started it, so from any but the main thread it is not done."""
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # it died before
            os.kill(os.getpid(), signal.SIGTERM)

    return in_child


def wait_until(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], folder: Path, timeout_s: float
) -> None:
    """Waits for `ready`. Raises `ServiceError`, with the end of the log, if the process ends or the time is over."""
    until = time.monotonic() + timeout_s
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            end(process)
            log = (folder / "output.log").read_text(errors="replace")[-2000:]
            raise ServiceError(f"{process.args!r} did not start within {timeout_s:g} s:\n{log}")
        time.sleep(POLL_S)


def end(process: subprocess.Popen[bytes], timeout_s: float = 15.0) -> None:
    """Ends the process and all its group: asked first, killed after `timeout_s`."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            signal_group(process, number)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                continue
    # What the leader left behind in its group.
    signal_group(process, signal.SIGKILL)


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
