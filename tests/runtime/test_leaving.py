"""A process that is told to end while it starts."""

from __future__ import annotations

import signal
import subprocess
import sys

STARTING = """
import time
from runtime.leaving import leave_at_sigterm

leave_at_sigterm()
try:
    print("starting", flush=True)
    time.sleep(60)
finally:
    print("closed", flush=True)
"""


def test_a_process_that_starts_ends_in_order_at_sigterm() -> None:
    process = subprocess.Popen([sys.executable, "-c", STARTING], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "starting\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "closed\n"
    assert process.returncode == 0
