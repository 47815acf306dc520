"""What the benchmark tells the servers, in environment variables; known to both sides, so without torch."""

from __future__ import annotations

import os
from typing import Final

SIDE: Final = 64
MAX_BATCH: Final = 8
CORE: Final = "PEER_CORE"
"""The core of the process that draws."""
WINDOW_MS: Final = "PEER_WINDOW_MS"
"""How long a batch may gather."""
PORT: Final = "PEER_PORT"
"""Where HTTP is served, on the loopback interface."""
FOLDER: Final = "PEER_FOLDER"
"""Where a server may write; gone when it is."""
BROKER: Final = "PEER_BROKER_URL"
BACKEND: Final = "PEER_RESULT_URL"


def window_s() -> float:
    """How long a batch may gather, in seconds."""
    return float(os.environ[WINDOW_MS]) / 1000


def port() -> int:
    return int(os.environ[PORT])
