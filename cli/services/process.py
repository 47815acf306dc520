"""Starts server processes, waits for them, and ends them."""

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
"""Names the folder of the server programs, for tests on certain versions."""


class ServiceError(Exception):
    """A server is missing or did not start. The message says what to do."""


def find_program(*names: str, folders: Sequence[str] = ()) -> str | None:
    """Returns the path of the first program of `names` in `folders` or on the PATH; None: there is none.

    If `DARKROOM_SERVERS` names a folder, only that folder is searched. So tests for one version
    never run on another.
    """
    chosen = os.environ.get(FOLDER_SETTING)
    path = chosen or os.pathsep.join((*folders, os.environ.get("PATH", "")))
    return next((program for name in names if (program := shutil.which(name, path=path))), None)


def free_port() -> int:
    """Returns a TCP port that is free on all addresses, because some servers listen on all of them."""
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
    """Starts `command` as the leader of a new process group, in `cwd` or else in `folder`.

    Its output goes to `folder/output.log`. `environ` is its environment; None: the one of this process.
    On Linux it gets SIGTERM when this process dies, for whatever reason.
    """
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
    """Returns the first action of a child, which makes it end with this process: prctl(2), PR_SET_PDEATHSIG.

    The kernel watches the thread that started the child. So this is only done from the main thread.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # the parent has died already
            os.kill(os.getpid(), signal.SIGTERM)

    return in_child


def wait_until(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], folder: Path, timeout_s: float
) -> None:
    """Waits until `ready` returns True.

    Raises `ServiceError`, with the end of the log, if the process ends or `timeout_s` is over.
    """
    until = time.monotonic() + timeout_s
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            end(process)
            log = (folder / "output.log").read_text(errors="replace")[-2000:]
            raise ServiceError(f"{process.args!r} did not start within {timeout_s:g} s:\n{log}")
        time.sleep(POLL_S)


def end(process: subprocess.Popen[bytes], timeout_s: float = 15.0) -> None:
    """Ends the process and its group: with SIGTERM, and after `timeout_s` seconds with SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            signal_group(process, number)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                continue
    # Other processes of the group may still run.
    signal_group(process, signal.SIGKILL)


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Sends a signal to the process and its group. Does nothing if they have ended."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
