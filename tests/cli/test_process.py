"""Processes that we start end with us."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cli.services import process

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def test_a_child_of_a_killed_supervisor_ends(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from cli.services.process import launch;"
        f"print(launch(['sleep', '60'], Path({str(tmp_path)!r})).pid, flush=True); time.sleep(60)"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert supervisor.stdout is not None
    child = psutil.Process(int(supervisor.stdout.readline()))
    assert child.is_running()
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait(10)
    supervisor.stdout.close()
    until = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "it has outlived its supervisor"
        time.sleep(0.02)


def test_a_free_port_is_free_on_every_address() -> None:
    """Some servers listen on all of them, and there a port that another address uses is in use."""
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.socket()).bind(("127.0.0.2", 0))
        for _ in range(1000):
            with socket.socket() as server:
                server.bind(("", process.free_port()))
