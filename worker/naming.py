"""The names of a worker and of its model."""

from __future__ import annotations

import os
import secrets
import socket

from contracts.model_source import name_of
from contracts.settings import WorkerSettings


def model_name(settings: WorkerSettings) -> str:
    """The model's name for clients: the setting, or the last part of its folder or hub id."""
    return settings.model_name or name_of(settings.model)


def worker_id() -> str:
    """A unique worker id: host name, process id and six random hex digits."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
