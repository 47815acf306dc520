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
KEPT_FREE: Final = 384 << 20
"""What the rest of the worker needs, at the least, in bytes."""

log = get_logger(__name__)


def limit_of(setting: int | None, memory_bytes: int | None) -> int | None:
    """The limit in bytes, None for no limit: `engine_memory_bytes`, or what `memory_bytes` of memory leaves beside the rest of the
    worker. A machine that is too small to leave half of it to the engine leaves half."""
    if setting is not None:
        return setting or None
    if memory_bytes is None:
        return None
    return memory_bytes - min(max(memory_bytes // 10, KEPT_FREE), memory_bytes // 2)


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
