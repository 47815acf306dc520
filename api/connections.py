"""How many connections one address may have open. The server accepts in native code, so this looks at what it has accepted.

Like a firewall's limit: connections that were there first stay, newer ones are closed. A look twice a second bounds what one
address holds, not how often it connects: that is what a proxy or firewall in front is for (docs/security.md).
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
SPARE_FILES: Final = 512
"""Open files beside connections of clients: those to Redis and the broker, pictures, pipes."""
IPV6_PREFIX: Final = 64
"""One customer has at least so much of IPv6 for itself (RFC 6177), so it counts as one address."""

Peer = tuple[str, int]
"""Address and port of a client."""

log = get_logger(__name__)


@lru_cache(maxsize=65_536)
def owner(address: str) -> str:
    """Under which name `address` counts: itself, or its network of IPv6. Pure."""
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
    """Those to be closed, so that no owner has more than `limit`: the newest. `before` numbers those that were there at an
    earlier look, the oldest lowest. Pure."""
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
        """The connections of the last look, numbered as they came."""
        self._files: dict[int, tuple[int, Peer]] = {}
        """Of each connection the number of its file, its inode, and its peer as they were at the last look. A number that passes to
        another connection has another inode. To ask for the peers of thousands again would hold up the event loop, for both need the
        interpreter."""

    async def run(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.look)
            except OSError as error:
                log.warning("connections_unseen", cause=str(error))
            await asyncio.sleep(LOOK_S)

    def look(self) -> int:
        """One look; answers how many were closed. Raises `OSError` where the process cannot open one file more."""
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
        """The open connections of clients, and the number of the file of each as of now."""
        files = {}
        for number in _open_files():
            with suppress(OSError):
                now = os.fstat(number)
                # Only sockets: closing a second descriptor of a file would give up this process's locks on it.
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
        """Ends the connection of `peer`, if `number` is still its file."""
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
    """A socket of its own on open file `number`, for the block; None where that is no socket of TCP, or no more. What is learnt of
    the duplicate and done to it concerns one connection, though the number may pass to another one at any time."""
    found = None
    with suppress(OSError):
        # Only sockets: closing a second descriptor of a file would give up this process's locks on it.
        if stat.S_ISSOCK(os.fstat(number).st_mode):
            copy = os.dup(number)
            try:
                found = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
    if found is None:
        yield None
        return
    with found:
        yield found if found.family in (socket.AF_INET, socket.AF_INET6) else None


def check_open_files(connections: int) -> None:
    """Warns where the system allows this process fewer open files than so many connections need. (Granian has raised the limit as
    far as it may, when it was imported.)"""
    wanted = connections + SPARE_FILES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        log.warning("few_open_files", allowed=allowed, wanted=wanted)
