"""Clients that connect and do nothing, or never end: thousands of them in one process, on epoll (Linux).

Each keeps its connection as long as the server lets it, and comes back when the server has closed it.
"""

from __future__ import annotations

import errno
import heapq
import random
import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

CONNECTS_PER_S: Final = {"idle": 1000.0}
SLOW_CONNECTS_PER_S: Final = 200.0
"""At the beginning. More would be a flood of requests, or of connections, and that is another attack."""
DRIP_S: Final = 2.0
REFUSED_S: Final = 1.0
"""A connection that ended sooner was refused."""
BACK_S: Final = (1.0, 5.0)
REFUSED_BACK_S: Final = (10.0, 20.0)
"""When a client comes back whose connection has ended; who was refused waits longer."""
DEAF_S: Final = 35.0
"""The kernel of a server that cuts off a deaf client tells it nothing: the client begins anew after so long."""
SMALL_BUFFER: Final = 4096
WAIT_S: Final = 0.2

_HOST: Final = b"Host: localhost\r\n"
_LARGE: Final = b"GET /openapi.json HTTP/1.1\r\n" + _HOST + b"\r\n"
SAID: Final = {
    "idle": b"",
    "head": b"GET /healthz HTTP/1.1\r\n" + _HOST + b"X-Long: " + b"a" * 10_000,
    "body": b"POST /v1/jobs HTTP/1.1\r\n"
    + _HOST
    + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
    "deaf": _LARGE * 150,
}
"""What each kind says at once: nothing, a head or a body that goes on by a byte every `DRIP_S`, or requests whose answers it never
reads."""
_DRIPPING: Final = frozenset({"head", "body"})


@dataclass(slots=True, eq=False)
class _Client:
    kind: str
    address: str
    socket: socket.socket | None = None
    unsent: bytes = b""
    began: float = 0.0
    connected: bool = False


class Crowd:
    """One client for each of `kinds`, from `addresses` of loopback in turn, all connected to `port` of 127.0.0.1."""

    def __init__(self, port: int, kinds: Sequence[str], addresses: int) -> None:
        self._port = port
        self._clients = [
            _Client(kind, f"127.0.1.{1 + number % addresses}") for number, kind in enumerate(kinds)
        ]
        self._epoll = select.epoll()
        self._by_file: dict[int, int] = {}
        self._due: list[tuple[float, int, float]] = []
        """When, whose turn it is, and of which connection: that which began then; 0: of none."""
        self._open = 0
        self._tried: set[int] = set()
        self.counts = {"opened": 0, "refused": 0, "most_open": 0}

    def run(self, ended: Callable[[], bool], ready: Callable[[], None]) -> None:
        """Until `ended`. `ready` is called once, when every client has been connected or refused."""
        now, told = time.monotonic(), False
        for number, client in enumerate(self._clients):
            self._due.append((now, number, 0.0))
            now += 1 / CONNECTS_PER_S.get(client.kind, SLOW_CONNECTS_PER_S)
        while not ended():
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, number, began = heapq.heappop(self._due)
                self._turn(number, began, now)
            for file, events in self._epoll.poll(WAIT_S if not self._due else self._wait_s()):
                self._handle(self._by_file[file], events)
            if not told and len(self._tried) == len(self._clients):
                told = True
                ready()
        for client in self._clients:
            if client.socket is not None:
                client.socket.close()
        self._epoll.close()

    def _wait_s(self) -> float:
        return min(WAIT_S, max(0.0, self._due[0][0] - time.monotonic()))

    def _turn(self, number: int, began: float, now: float) -> None:
        client = self._clients[number]
        if client.socket is None:
            self._connect(number, client, now)
        elif client.began == began:
            if client.kind == "deaf":
                self._lost(number, client)
                return
            try:
                client.socket.send(b" ")
            except BlockingIOError:
                pass
            except OSError:
                self._lost(number, client)
                return
            heapq.heappush(self._due, (now + DRIP_S, number, began))

    def _connect(self, number: int, client: _Client, now: float) -> None:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if client.kind == "deaf":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        client.socket, client.began, client.connected, client.unsent = made, now, False, SAID[client.kind]
        made.bind((client.address, 0))
        code = made.connect_ex(("127.0.0.1", self._port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, f"connect: {errno.errorcode[code]}")
        self._by_file[made.fileno()] = number
        self._epoll.register(made.fileno(), select.EPOLLOUT | select.EPOLLRDHUP)

    def _handle(self, number: int, events: int) -> None:
        client = self._clients[number]
        if client.socket is None:
            return
        if not client.connected and events & select.EPOLLOUT and not events & select.EPOLLERR:
            self._begin(number, client)
        gone = bool(events & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP))
        if not gone and events & select.EPOLLOUT:
            gone = not self._send(client)
        if not gone and events & select.EPOLLIN:
            gone = not _heard(client.socket)
        if gone:
            self._lost(number, client)

    def _begin(self, number: int, client: _Client) -> None:
        client.connected = True
        self._open += 1
        self._tried.add(number)
        self.counts["opened"] += 1
        self.counts["most_open"] = max(self.counts["most_open"], self._open)
        if client.kind != "idle":
            after_s = DEAF_S if client.kind == "deaf" else DRIP_S * random.uniform(0.5, 1.5)
            heapq.heappush(self._due, (client.began + after_s, number, client.began))

    def _send(self, client: _Client) -> bool:
        """As much as fits; whether the connection is still there."""
        if client.socket is None:
            return False
        try:
            if client.unsent:
                client.unsent = client.unsent[client.socket.send(client.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            return False
        # A deaf client asks what it can at once, and then takes notice of nothing but the end.
        deaf = client.kind == "deaf"
        if deaf or not client.unsent:
            self._epoll.modify(client.socket.fileno(), select.EPOLLRDHUP | (0 if deaf else select.EPOLLIN))
        return True

    def _lost(self, number: int, client: _Client) -> None:
        if client.socket is None:
            return
        now = time.monotonic()
        refused = not client.connected or now - client.began < REFUSED_S
        self._tried.add(number)
        self._open -= client.connected
        self.counts["refused"] += refused
        del self._by_file[client.socket.fileno()]
        client.socket.close()
        client.socket = None
        heapq.heappush(
            self._due, (now + random.uniform(*(REFUSED_BACK_S if refused else BACK_S)), number, 0.0)
        )


def _heard(peer: socket.socket) -> bool:
    """Throws away what has come; whether the connection is still there."""
    with suppress(BlockingIOError):
        try:
            return bool(peer.recv(65_536))
        except ConnectionError:
            return False
    return True
