"""How much memory the device has, and how much of it is in use. The engine reports it after each batch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

from worker.engine.container import machine_memory
from worker.engine.messages import DeviceMemory

STATM: Final = Path("/proc/self/statm")


def device_memory() -> DeviceMemory | None:
    """Return the memory of the GPU as the driver reports it, if torch uses one.

    Otherwise return this process's resident memory, and the limit of the machine or container. None
    if the system does not report it.
    """
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        return DeviceMemory("cuda", total - free, total)
    limit = machine_memory()
    try:
        used = int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
    return None if limit is None else DeviceMemory("cpu", used, limit)
