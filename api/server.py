"""Granian in this process, on a socket of our own making.

In this process rather than in Granian's worker processes: a third of the memory, and one process to supervise. On a socket of our
own: the one that Granian makes on Linux has SO_REUSEPORT, and so shares a port with whoever else has it, in silence.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from fastapi import FastAPI
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.net import SocketHolder  # type: ignore[attr-defined]  # its stubs leave it out
from granian.server.embed import Server

MAX_CONCURRENT: Final = 4096
"""Requests inside the application at once; above `wait.MAX_WAITERS`, so that held ones never block the others."""
HEADER_TIMEOUT_MS: Final = 10_000


class HttpServer(Server):
    """Serves `app` to those who connect to `listener`, which it closes at its end."""

    def __init__(self, app: FastAPI, listener: socket.socket, backlog: int) -> None:
        super().__init__(
            app,
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            websockets=False,
            backlog=backlog,
            backpressure=MAX_CONCURRENT,
            http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS),
            log_enabled=False,
        )
        self._listener = listener
        self._backlog = backlog

    def _init_shared_socket(self) -> None:
        # Where Granian makes its socket. What it does elsewhere than on Linux: its worker is handed one that listens already.
        self._shd: Any = SocketHolder(self._listener.detach(), False, self._backlog)  # type: ignore[call-arg]
        self._ssp = None
