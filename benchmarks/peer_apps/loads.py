"""How each server is asked for a picture, and an open load on it: arrivals that do not wait for answers."""

from __future__ import annotations

import base64
import http.client
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.lib.asking import Unanswered, fresh, post

TIMEOUT_S: Final = 60.0
MAX_IN_FLIGHT: Final = 256
PNG: Final = b"\x89PNG"
PROMPTS: Final = tuple(
    f"{thing} on a {colour} background"
    for thing in ("a red apple", "a rocket", "a snowman", "a cat", "an umbrella")
    for colour in ("blue", "pink", "yellow")
)

Draw = Callable[[http.client.HTTPConnection, dict[str, Any]], bytes]
"""A request to a PNG file in the client's hands, over a kept connection. Raises `Unanswered`."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server that draws; `port` on the loopback interface."""

    name: str
    port: int
    call: Draw

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)

    def draw(self, connection: http.client.HTTPConnection, prompt: str, seed: int) -> bytes:
        """One picture. Raises `Unanswered`, and closes the connection then."""
        try:
            picture = self.call(connection, {"prompt": prompt, "seed": seed})
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unanswered(f"{self.name}: {type(error).__name__}") from error
        if not picture.startswith(PNG):
            connection.close()
            raise Unanswered(f"{self.name}: {picture[:200]!r}")
        return picture

    def next(self, connection: http.client.HTTPConnection) -> bytes:
        """A picture that nobody has asked for before."""
        seed = fresh()["seed"]
        return self.draw(connection, PROMPTS[seed % len(PROMPTS)], seed)


def posting(path: str) -> Draw:
    """What most servers want: the request as JSON to `path`, the picture as the body of the answer."""
    return lambda connection, request: post(connection, path, request)[2]


def darkroom(connection: http.client.HTTPConnection, request: dict[str, Any]) -> bytes:
    """The route of OpenAI's clients: one request, held until the end, and the picture in base64 in its answer."""
    data = post(connection, "/v1/images/generations", request)[2]
    answer: dict[str, Any] = json.loads(data)
    if "data" not in answer:
        raise Unanswered(data.decode())
    return base64.b64decode(answer["data"][0]["b64_json"])


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of one phase: seconds from arrival to picture of those that came, and how many did not."""

    answered_s: tuple[float, ...]
    failed: int

    def quantile_ms(self, share: float) -> float:
        """The latency that `share` of all arrivals stay within; one that failed counts as the time limit."""
        ordered = sorted(self.answered_s) + [TIMEOUT_S] * self.failed
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def within(self, slo_s: float) -> float:
        """The share of all arrivals that were answered within `slo_s`."""
        total = len(self.answered_s) + self.failed
        return sum(each <= slo_s for each in self.answered_s) / total

    def median_ms(self) -> float:
        return 1000 * statistics.median(self.answered_s or (TIMEOUT_S,))


def offer(server: Server, times: Iterable[float]) -> Latencies:
    """Requests at `times`, whether or not earlier ones are answered. Latency counts from when a request was due."""
    local = threading.local()
    connections: list[http.client.HTTPConnection] = []

    def request(due: float) -> float | None:
        if not hasattr(local, "connection"):
            local.connection = server.connect()
            connections.append(local.connection)
        try:
            server.next(local.connection)
        except Unanswered:
            return None
        return time.perf_counter() - due

    with ThreadPoolExecutor(MAX_IN_FLIGHT) as pool:
        begun = time.perf_counter()
        pending = []
        for at in times:
            time.sleep(max(0.0, begun + at - time.perf_counter()))
            pending.append(pool.submit(request, begun + at))
        taken = [each.result() for each in pending]
    for connection in connections:
        connection.close()
    answered = tuple(each for each in taken if each is not None)
    return Latencies(answered, len(taken) - len(answered))
