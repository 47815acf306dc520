"""Runs Granian in this process, on our own socket.

Granian's worker processes would take three times the memory, and more supervision. Granian's own
socket has SO_REUSEPORT on Linux. It would therefore share its port silently with any other process
that uses it.

Granian's bounds: `backpressure` counts open connections, not requests. The timer for a request head
also runs while a connection is new or kept alive, so it ends idle ones. Granian has no timer for
writes, and does not bound what the kernel buffers. Socket options do both.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.net import SocketHolder  # type: ignore[attr-defined]  # its stubs leave it out
from granian.server.embed import Server

UNSENT_BYTES: Final = 65_536
"""How much of an answer the kernel buffers beyond the client's window. The rest waits in this
process, which has it anyway."""


class HttpServer(Server):
    """Serves the ASGI application `app` on `listener`, which it closes at its end. `backlog` is that of
    the listener.

    `max_connections` may be open. A request head of at most `max_header_bytes` must come within
    `header_timeout_s`, and a client must accept data within `write_timeout_s`.
    """

    def __init__(
        self,
        app: object,
        listener: socket.socket,
        backlog: int,
        *,
        max_connections: int,
        header_timeout_s: float,
        max_header_bytes: int,
        write_timeout_s: float,
    ) -> None:
        super().__init__(
            app,
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            websockets=False,
            backlog=backlog,
            backpressure=max_connections,
            http1_settings=HTTP1Settings(
                header_read_timeout=int(header_timeout_s * 1000),
                max_buffer_size=max_header_bytes,
            ),
            log_enabled=False,
        )
        self._listener = listener
        self._backlog = backlog
        _bound_writes(listener, write_timeout_s)

    def _init_shared_socket(self) -> None:
        # Granian makes its socket here. It gets ours, which listens already. On systems other than
        # Linux it does the same itself.
        self._shd: Any = SocketHolder(self._listener.detach(), False, self._backlog)  # type: ignore[call-arg]
        self._ssp = None


def _bound_writes(listener: socket.socket, timeout_s: float) -> None:
    """Bound the writes of every connection that `listener` accepts (tcp(7)).

    A connection ends if its client accepts no data for `timeout_s` (TCP_USER_TIMEOUT; also while
    the client's window is closed). Until then the kernel buffers at most `UNSENT_BYTES` for it
    (TCP_NOTSENT_LOWAT). Its default is megabytes (`tcp_wmem`), which are memory of the container.
    Only Linux has the first option; some other systems have the second.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout_s * 1000))
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
