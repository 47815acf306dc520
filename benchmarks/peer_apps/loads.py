"""Load on one server: closed (so many clients, each holding one request) and open (arrivals that do not wait for answers)."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

TIMEOUT_S: Final = 60.0
MAX_IN_FLIGHT: Final = 256
PNG: Final = b"\x89PNG"
PROMPTS: Final = tuple(
    f"{thing} on a {colour} background"
    for thing in ("a red apple", "a rocket", "a snowman", "a cat", "an umbrella")
    for colour in ("blue", "pink", "yellow")
)
_seeds = itertools.count(1)


class Unanswered(Exception):
    """The server answered something that is no picture."""


Draw = Callable[[http.client.HTTPConnection, str, int], bytes]
"""A prompt and a seed to a PNG file in the client's hands, over a kept connection. Raises `Unanswered`."""


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
            picture = self.call(connection, prompt, seed)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unanswered(f"{self.name}: {type(error).__name__}") from error
        if not picture.startswith(PNG):
            connection.close()
            raise Unanswered(f"{self.name}: {picture[:200]!r}")
        return picture

    def next(self, connection: http.client.HTTPConnection) -> bytes:
        """A picture that nobody has asked for before."""
        seed = next(_seeds)
        return self.draw(connection, PROMPTS[seed % len(PROMPTS)], seed)


def posting(path: str) -> Draw:
    """What most servers want: the request as JSON to `path`, the picture as the body of the answer."""

    def call(connection: http.client.HTTPConnection, prompt: str, seed: int) -> bytes:
        body = json.dumps({"prompt": prompt, "seed": seed})
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        return connection.getresponse().read()

    return call


def darkroom(connection: http.client.HTTPConnection, prompt: str, seed: int) -> bytes:
    """The route of OpenAI's clients: one request, held until the end, and the picture in base64 in its answer."""
    body = json.dumps({"prompt": prompt, "seed": seed})
    connection.request("POST", "/v1/images/generations", body, {"Content-Type": "application/json"})
    data = connection.getresponse().read()
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


@dataclass(frozen=True, slots=True)
class Saturation:
    """Pictures per second in the time that counts; and of the whole phase, how many came and how many did not."""

    rate: float
    drawn: int
    failed: int


def saturate(server: Server, clients: int, seconds: float) -> Saturation:
    """`clients` that each hold one request, for `seconds` that count, after a fifth of that to fill up."""
    until = time.perf_counter() + 1.2 * seconds
    since = until - seconds
    ended: list[float] = []
    failed: list[str] = []

    def client() -> None:
        connection = server.connect()
        while time.perf_counter() < until:
            try:
                server.next(connection)
                ended.append(time.perf_counter())
            except Unanswered as error:
                failed.append(str(error))
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = sum(since <= at <= until for at in ended) / seconds
    return Saturation(rate, len(ended), len(failed))


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """The seconds at which requests arrive: a Poisson process, the same for the same seed."""
    rng = random.Random(seed)
    at = rng.expovariate(rate)
    while at < seconds:
        yield at
        at += rng.expovariate(rate)


def offer(server: Server, times: Sequence[float]) -> Latencies:
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
