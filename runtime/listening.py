"""Listening on a port. A port in use is refused with an error that names the setting.

A server that sets SO_REUSEPORT, as Granian does on Linux, can listen on a port that another server uses,
without an error. The kernel then splits the connections between the two (socket(7)). So the socket is
made here, without that option unless it is wanted.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

from contracts.errors import SettingsError

BACKLOG: Final = 1024


def listen(
    host: str, port: int, setting: str, *, backlog: int = BACKLOG, shared: bool = False
) -> socket.socket:
    """A socket that listens at `host` (a name, or an IPv4 or IPv6 address) on `port`; 0 picks a free port.

    `shared`: other processes that also set it may listen on the same port. `::` accepts IPv4 connections
    too, so it overlaps with `0.0.0.0` and `127.0.0.1`. Raises `SettingsError`, which names `setting`, for a
    port that is not available.
    """
    family, address = _resolved(host, port)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Allows a port whose last connections have just been closed (TIME_WAIT).
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise _refused(error, host, port, setting) from None
    return listener


def check_free(host: str, port: int, setting: str) -> None:
    """Raise `SettingsError`, which names `setting`, unless `listen` would succeed now."""
    listen(host, port, setting).close()


def is_free(host: str, port: int) -> bool:
    """Whether `listen` would succeed now."""
    try:
        check_free(host, port, "")
    except SettingsError:
        return False
    return True


def _resolved(
    host: str, port: int
) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise SettingsError(
            f"DARKROOM_HOST: {host!r} is no address or name that this machine knows."
        ) from None
    # `localhost` is both IPv4 and IPv6. Clients try IPv4 where it exists.
    addresses.sort(key=lambda entry: entry[0] != socket.AF_INET)
    family, _, _, _, address = addresses[0]
    return family, address  # type: ignore[return-value]


def _refused(error: OSError, host: str, port: int, setting: str) -> SettingsError:
    match error.errno:
        case errno.EADDRINUSE:
            return SettingsError(
                f"{setting}: Port {port} is in use: another program listens there, perhaps another Darkroom. "
                "Choose another port, or end that program."
            )
        case errno.EACCES:
            return SettingsError(
                f"{setting}: This user may not listen on port {port}. Choose one above 1023."
            )
        case errno.EADDRNOTAVAIL:
            return SettingsError(f"DARKROOM_HOST: {host} is no address of this machine.")
    return SettingsError(f"{setting}: Port {port} at {host or 'all addresses'}: {error.strerror}.")
