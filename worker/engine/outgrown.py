"""The engine's own memory limit: a process that has outgrown it ends itself, before the machine ends another one.

Resident memory is watched rather than address space limited (`setrlimit`): CUDA reserves far more addresses than it ever uses.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Final

import psutil

from telemetry.logs import get_logger

EVERY_S: Final = 0.5
OUTGROWN: Final = 87
"""The exit status."""

log = get_logger(__name__)


def watch(limit_bytes: int, every_s: float = EVERY_S) -> None:
    """End this process, from now on, once its resident memory is more than `limit_bytes`. Its host sees a crash: the images
    run again alone, and one under which it happens again fails."""
    threading.Thread(target=_watch, args=(limit_bytes, every_s), name="memory", daemon=True).start()


def _watch(limit_bytes: int, every_s: float) -> None:
    process = psutil.Process()
    while (used := process.memory_info().rss) <= limit_bytes:
        time.sleep(every_s)
    log.error("engine_outgrown", used_bytes=used, limit_bytes=limit_bytes)
    os._exit(OUTGROWN)
