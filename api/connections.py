"""How many connections one address may have open. The server accepts in native code, so this looks at what it has accepted.

Like a firewall's limit: connections that were there first stay, newer ones are closed. A look twice a second bounds what one
address holds, not how often it connects: that is what a proxy or firewall in front is for (docs/security.md).
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import resource
import socket
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
    held: Counter[str] = Counter()
    over = []
    for peer in sorted(now, key=lambda peer: before.get(peer, len(before))):
        name = owner(peer[0])
        held[name] += 1
        if held[name] > limit:
            over.append(peer)
    return over


class ConnectionGuard:
    """Closes the connections to `port` of this process that exceed `limit` for one address."""

    def __init__(self, port: int, limit: int) -> None:
        self._port = port
        self._limit = limit
        self._known: dict[Peer, int] = {}

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_S)

    def look(self) -> int:
        """One look; answers how many were closed."""
        with self._accepted() as sockets:
            over = excess(sockets, self._known, self._limit)
            for peer in over:
                # It may have been closed meanwhile.
                with suppress(OSError):
                    sockets[peer].shutdown(socket.SHUT_RDWR)
            kept = sockets.keys() - set(over)
        self._known = {peer: at for at, peer in enumerate(sorted(kept, key=self._age))}
        if over:
            metrics.CONNECTIONS_REFUSED.inc(len(over))
            log.warning("connections_refused", count=len(over), addresses=len({owner(p[0]) for p in over}))
        return len(over)

    def _age(self, peer: Peer) -> int:
        return self._known.get(peer, len(self._known))

    @contextmanager
    def _accepted(self) -> Iterator[dict[Peer, socket.socket]]:
        """The open connections of clients, as duplicates: the number of a file may pass to another one at any time."""
        found: dict[Peer, socket.socket] = {}
        try:
            for number in _open_files():
                duplicate = _duplicate(number)
                if duplicate is None:
                    continue
                peer = self._peer(duplicate)
                # A number in the list may by now be that of one of our own duplicates.
                if peer is None or peer in found:
                    duplicate.close()
                else:
                    found[peer] = duplicate
            yield found
        finally:
            for duplicate in found.values():
                duplicate.close()

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


def _duplicate(number: int) -> socket.socket | None:
    """A socket of its own on open file `number`; None where that is no socket of TCP, or no more."""
    try:
        # Only sockets: closing a second descriptor of a file would give up this process's locks on it.
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return None
        duplicate = socket.socket(fileno=os.dup(number))
    except OSError:
        return None
    if duplicate.family not in (socket.AF_INET, socket.AF_INET6):
        duplicate.close()
        return None
    return duplicate


def check_open_files(connections: int) -> None:
    """Warns where the system allows this process fewer open files than so many connections need. (Granian has raised the limit as
    far as it may, when it was imported.)"""
    wanted = connections + SPARE_FILES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        log.warning("few_open_files", allowed=allowed, wanted=wanted)
