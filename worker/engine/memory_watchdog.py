"""The engine's memory limit. A process that exceeds it ends itself, before the kernel kills another process.

The watchdog reads resident memory. A limit of address space (`setrlimit`) would not work: CUDA
reserves far more addresses than it ever uses.
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
"""The exit status of an engine that has exceeded its limit."""
KEPT_FREE: Final = 384 << 20
"""What the rest of the worker needs at least, in bytes."""

log = get_logger(__name__)


def limit_of(setting: int | None, memory_bytes: int | None) -> int | None:
    """Return the limit in bytes, or None for no limit.

    `setting` is `engine_memory_bytes`; 0 means no limit. Without it, the limit is `memory_bytes`
    less what the rest of the worker needs, and never under half of `memory_bytes`.
    """
    if setting is not None:
        return setting or None
    if memory_bytes is None:
        return None
    return memory_bytes - min(max(memory_bytes // 10, KEPT_FREE), memory_bytes // 2)


def watch(limit_bytes: int, every_s: float = EVERY_S) -> None:
    """Start a thread that ends this process once its resident memory is above `limit_bytes`.

    The host sees a crash and runs each image again alone. An image that makes the engine exceed the
    limit again fails. `every_s` is the interval between checks, in seconds.
    """
    threading.Thread(target=_watch, args=(limit_bytes, every_s), name="memory", daemon=True).start()


def _watch(limit_bytes: int, every_s: float) -> None:
    process = psutil.Process()
    while (used := process.memory_info().rss) <= limit_bytes:
        time.sleep(every_s)
    log.error("engine_outgrown", used_bytes=used, limit_bytes=limit_bytes)
    os._exit(OUTGROWN)
