"""Limits how many connections one address may have open.

The server accepts connections in native code, so this module looks at the open connections twice a
second. As with a firewall's limit, older connections stay and newer ones are closed. It bounds how
many connections an address holds, not how often it connects. A proxy or firewall in front does that
(docs/security.md).
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import math
import os
import resource
import socket
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Final

from telemetry import metrics
from telemetry.logs import get_logger

LOOK_S: Final = 0.5
"""Seconds between two looks."""
SPARE_FILES: Final = 512
"""Open files besides the connections of clients: those to Redis and the broker, images, pipes."""
IPV6_PREFIX: Final = 64
"""Bits of an IPv6 address that count. One customer has at least such a network (RFC 6177)."""

Peer = tuple[str, int]
"""The address and port of a client."""

log = get_logger(__name__)


@lru_cache(maxsize=65_536)
def owner(address: str) -> str:
    """The name under which `address` is counted: the address itself, or its IPv6 network. Pure."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, IPV6_PREFIX), strict=False))
    return str(ip)


def excess(now: Iterable[Peer], before: Mapping[Peer, int], limit: int) -> list[Peer]:
    """The connections to close, so that no owner has more than `limit`.

    The newest are closed. `before` numbers the connections of the last look, the oldest lowest.
    Pure.
    """
    held: dict[str, list[Peer]] = defaultdict(list)
    for peer in now:
        held[owner(peer[0])].append(peer)
    newest = math.inf
    return [
        peer
        for peers in held.values()
        if len(peers) > limit
        for peer in sorted(peers, key=lambda peer: before.get(peer, newest))[limit:]
    ]


class ConnectionGuard:
    """Closes the connections to `port` of this process that exceed `limit` for one address."""

    def __init__(self, port: int, limit: int) -> None:
        self._port = port
        self._limit = limit
        self._numbers = itertools.count()
        self._known: dict[Peer, int] = {}
        """The connections of the last look, numbered in the order in which they came."""
        self._files: dict[int, tuple[int, Peer]] = {}
        """From the file number of each connection to its inode and peer, as of the last look. If a
        file number passes to another connection, its inode changes. Peers are remembered because
        asking for thousands of them holds the interpreter, and so delays the event loop."""

    async def run(self) -> None:
        """Look every `LOOK_S` seconds until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.look)
            except OSError as error:
                log.warning("connections_unseen", cause=str(error))
            await asyncio.sleep(LOOK_S)

    def look(self) -> int:
        """Look once, and close the connections over the limit; returns how many.

        Raises `OSError` if the process cannot open another file.
        """
        accepted = self._accepted()
        over = excess(accepted, self._known, self._limit)
        closed = sum(self._close(accepted[peer], peer) for peer in over)
        kept = accepted.keys() - set(over)
        self._known = {peer: self._known.get(peer, next(self._numbers)) for peer in kept}
        if closed:
            metrics.CONNECTIONS_REFUSED.inc(closed)
            log.warning("connections_refused", count=closed, addresses=len({owner(peer[0]) for peer in over}))
        return closed

    def _accepted(self) -> dict[Peer, int]:
        """The open connections of clients, each with its file number."""
        files = {}
        for number in _open_files():
            with suppress(OSError):
                now = os.fstat(number)
                # Only sockets: closing a second descriptor of a file would release this process's
                # locks on it.
                if stat.S_ISSOCK(now.st_mode):
                    inode, peer = self._files.get(number, (None, None))
                    if inode != now.st_ino:
                        with _duplicate(number) as socket_:
                            peer = None if socket_ is None else self._peer(socket_)
                    if peer is not None:
                        files[number] = now.st_ino, peer
        self._files = files
        return {peer: number for number, (_, peer) in files.items()}

    def _close(self, number: int, peer: Peer) -> bool:
        """Close the connection of `peer`, if `number` is still its file number.

        Returns whether it was closed.
        """
        with _duplicate(number) as socket_, suppress(OSError):
            if socket_ is not None and self._peer(socket_) == peer:
                socket_.shutdown(socket.SHUT_RDWR)
                return True
        return False

    def _peer(self, candidate: socket.socket) -> Peer | None:
        try:
            if candidate.type != socket.SOCK_STREAM or candidate.getsockname()[1] != self._port:
                return None
            address = candidate.getpeername()
        except (OSError, IndexError):
            return None
        return address[0], address[1]


def _open_files() -> list[int]:
    return [int(name) for name in os.listdir("/dev/fd")]


@contextmanager
def _duplicate(number: int) -> Iterator[socket.socket | None]:
    """A duplicate of the open file `number` as a socket, for the block; None: it is not (or no
    longer) a TCP socket. The number may pass to another connection at any time; the duplicate stays
    with the same one."""
    duplicate = None
    with suppress(OSError):
        # Only sockets: closing a second descriptor of a file would release this process's locks on it.
        if stat.S_ISSOCK(os.fstat(number).st_mode):
            copy = os.dup(number)
            try:
                duplicate = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
    if duplicate is None:
        yield None
        return
    with duplicate:
        yield duplicate if duplicate.family in (socket.AF_INET, socket.AF_INET6) else None


def check_open_files(connections: int) -> None:
    """Log a warning if this process may open fewer files than `connections` need.

    Granian has already raised the limit as far as possible, on its import.
    """
    wanted = connections + SPARE_FILES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        log.warning("few_open_files", allowed=allowed, wanted=wanted)
