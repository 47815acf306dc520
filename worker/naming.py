"""What a worker is called, and its model."""

from __future__ import annotations

import os
import secrets
import socket

from contracts.settings import WorkerSettings


def model_name(settings: WorkerSettings) -> str:
    """What clients call the model: the setting, or the last part of its folder or hub id."""
    return settings.model_name or settings.model.rstrip("/").rpartition("/")[2]


def worker_id() -> str:
    """An id that no other worker has had: host, process and a few random digits."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
