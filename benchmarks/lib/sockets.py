"""A closed load on bare sockets that are kept open: the clients must cost less than what they measure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Load(asyncio.Protocol):
    """One kept-open connection that sends its next request as soon as it has its answer, until `until` (monotonic seconds)."""

    next_request: Callable[[], bytes]
    until: float
    done: asyncio.Future[None]
    latencies_s: list[float] = field(default_factory=list)
    statuses: set[bytes] = field(default_factory=set)
    _buffer: bytes = b""
    _sent_at: float = 0.0
    _transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lowered = head.lower()
        begin = lowered.index(b"content-length:") + 15
        length = int(lowered[begin:].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        self._buffer = b""
        now = time.monotonic()
        self.latencies_s.append(now - self._sent_at)
        self.statuses.add(head[9:12])
        if now >= self.until:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _send(self) -> None:
        self._sent_at = time.monotonic()
        self._transport.write(self.next_request())


async def _saturate(
    port: int, clients: int, seconds: float, next_request: Callable[[], bytes], expected: bytes
) -> tuple[float, list[float]]:
    loop = asyncio.get_running_loop()
    begun = time.monotonic()
    loads = [Load(next_request, begun + seconds, loop.create_future()) for _ in range(clients)]
    for load in loads:
        await loop.create_connection(lambda load=load: load, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*(load.done for load in loads))
    took_s = time.monotonic() - begun
    statuses = {status for load in loads for status in load.statuses}
    if statuses != {expected}:
        raise RuntimeError(f"Answers were {statuses}, not {expected!r}.")
    latencies = [latency for load in loads for latency in load.latencies_s]
    return len(latencies) / took_s, latencies


def saturate(
    port: int, clients: int, seconds: float, next_request: Callable[[], bytes], expected: bytes
) -> tuple[float, list[float]]:
    """Answers per second of `clients` that each hold one request for `seconds`, and the latencies in seconds.

    Raises `RuntimeError` if the status of an answer is not the `expected` one.
    """
    return asyncio.run(_saturate(port, clients, seconds, next_request, expected))
