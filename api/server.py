"""Granian in this process, on a socket of our own making.

In this process rather than in Granian's worker processes: a third of the memory, and one process to supervise. On a socket of our
own: the one that Granian makes on Linux has SO_REUSEPORT, and so shares a port with whoever else has it, in silence.

Its bounds: `backpressure` counts open connections, not requests. The timer for a head also runs while a connection is new or
kept alive, so an idle one ends by it. It has no timer for writes, and no bound on what the kernel keeps of them: the kernel's do that.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from fastapi import FastAPI
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.net import SocketHolder  # type: ignore[attr-defined]  # its stubs leave it out
from granian.server.embed import Server

from contracts.settings import ApiSettings

UNSENT_BYTES: Final = 65_536
"""What the kernel keeps of an answer that a client's window has no room for; the rest waits in this process, where it is already."""


class HttpServer(Server):
    """Serves `app` to those who connect to `listener`, which it closes at its end."""

    def __init__(self, app: FastAPI, listener: socket.socket, backlog: int, settings: ApiSettings) -> None:
        super().__init__(
            app,
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            websockets=False,
            backlog=backlog,
            backpressure=settings.max_connections,
            http1_settings=HTTP1Settings(
                header_read_timeout=int(settings.header_timeout_s * 1000),
                max_buffer_size=settings.max_header_bytes,
            ),
            log_enabled=False,
        )
        self._listener = listener
        self._backlog = backlog
        _bound_writes(listener, settings.write_timeout_s)

    def _init_shared_socket(self) -> None:
        # Where Granian makes its socket. What it does elsewhere than on Linux: its worker is handed one that listens already.
        self._shd: Any = SocketHolder(self._listener.detach(), False, self._backlog)  # type: ignore[call-arg]
        self._ssp = None


def _bound_writes(listener: socket.socket, timeout_s: float) -> None:
    """For every connection that `listener` accepts (tcp(7)): it ends when its client takes nothing for so long (TCP_USER_TIMEOUT: also
    while the client's window is shut), and until then the kernel keeps no more than `UNSENT_BYTES` for it (TCP_NOTSENT_LOWAT).

    By itself the kernel keeps megabytes for a client that asks and never reads (`tcp_wmem`), and these are memory of the container.
    Linux alone has the first, and some systems have the second.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout_s * 1000))
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
