"""The servers in turns: each started, checked, saturated, offered arrivals, and stopped."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.random import default_rng
from PIL import Image, ImageChops

from benchmarks.lib.arrivals import poisson
from benchmarks.lib.asking import Unanswered
from benchmarks.lib.orders import orders
from benchmarks.lib.saturate import saturate
from benchmarks.peer_apps import environments, loads, servers
from benchmarks.peer_apps.environments import NotInstalled
from benchmarks.peer_apps.loads import Latencies, Server
from benchmarks.peer_apps.servers import PLATFORM
from cli.services.process import ServiceError

SHARES: Final = (0.5, 0.8)
"""Loads of the open loop, as shares of what the slowest of `PACERS` does at saturation."""
PACERS: Final = (PLATFORM, "mosec", "litserve")
"""Servers that draw about as fast. A load that is 0.8 of the fastest could be more than the slowest can do."""
HIGH: Final = SHARES[-1]
AGAIN: Final = f"{PLATFORM}_again"
WINDOWS_MS: Final = {
    "litserve": (1.0, 10.0, 50.0),
    "ray": (1.0, 10.0, 50.0),
    "bentoml": (500.0, 2000.0, 10000.0),
    "mosec": (1.0, 10.0, 50.0),
    "celery": (20.0, 100.0, 250.0),
}
"""The sweep. BentoML's is the latency that it plans for. The second of each is what `--quick` takes without a sweep."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One server in one round. CPU in milliseconds per picture at saturation."""

    rate: float
    failed: int
    drawing_ms: float
    rest_ms: float
    offered: dict[float, Latencies]

    @property
    def p99_ms(self) -> float:
        return self.offered[HIGH].quantile_ms(0.99)


class Comparison:
    """The servers that take part, and why the others do not."""

    def __init__(self, names: list[str], seconds: float, folder: Path) -> None:
        self.names = names
        self.windows_ms = {name: WINDOWS_MS[name][1] for name in names}
        self.failures: dict[str, str] = {}
        self.samples: dict[str, list[Sample]] = {}
        self.sweep: dict[str, dict[float, tuple[float, float]]] = {}
        self.capacity = 0.0
        self._seconds = seconds
        self._folder = folder
        self._reference: bytes = b""
        self._starts = 0

    def prepare(self) -> None:
        """Environments, the picture that all must draw, and the capacity of the slowest of `PACERS`."""
        for name in list(self.names):
            try:
                environments.python_of(name)
            except NotInstalled as error:
                self._give_up(name, f"not installed: {error}")
        with self._serving(PLATFORM, 0) as server:
            self._reference = picture(server)
            saturate(server.connect, server.next, self._seconds / 4)
            self.capacity = saturate(server.connect, server.next, self._seconds).rate
        for name in [each for each in self.names if each in PACERS]:
            sample = self._sample(name, self.windows_ms[name], self._seconds, (), 0)
            if sample is not None:
                self.capacity = min(self.capacity, sample.rate)

    def choose_windows(self) -> None:
        """For each peer the window with the lowest p99 among those within 3 % of its best throughput."""
        for name in list(self.names):
            tried = {}
            for window_ms in WINDOWS_MS[name]:
                sample = self._sample(name, window_ms, self._seconds / 2, (HIGH,), 0)
                if sample is None:
                    break
                tried[window_ms] = (sample.rate, sample.p99_ms)
            else:
                best = max(rate for rate, _ in tried.values())
                fast = [window for window, (rate, _) in tried.items() if rate >= 0.97 * best]
                self.windows_ms[name] = min(fast, key=lambda window: tried[window][1])
                self.sweep[name] = tried

    def run(self, rounds: int) -> None:
        for number, order in enumerate(orders([PLATFORM, *self.names, AGAIN], rounds)):
            for name in (each for each in order if each not in self.failures):
                sample = self._sample(name, self.windows_ms.get(name, 0), self._seconds, SHARES, number)
                if sample is not None:
                    self.samples.setdefault(name, []).append(sample)

    def _sample(
        self, name: str, window_ms: float, seconds: float, shares: tuple[float, ...], number: int
    ) -> Sample | None:
        """One start of a server, and all its phases; None where it fails, which ends its part in the comparison."""
        print(f"{name} ...", file=sys.stderr)
        try:
            with self._serving(name, window_ms) as server:
                if difference(picture(server), self._reference) > 1:
                    raise Unanswered("its pictures are not the platform's")
                saturate(server.connect, server.next, seconds / 4)
                before = servers.cpu_s()
                full = saturate(server.connect, server.next, seconds)
                after = servers.cpu_s()
                if not full.rate:
                    raise Unanswered("it drew nothing in time")
                drawing_ms, rest_ms = (
                    1000 * (b - a) / full.drawn for a, b in zip(before, after, strict=True)
                )
                offered = {
                    share: loads.offer(server, poisson(share * self.capacity, seconds, default_rng(number)))
                    for share in shares
                }
                return Sample(full.rate, full.failed, drawing_ms, rest_ms, offered)
        except (NotInstalled, ServiceError, Unanswered) as error:
            if name in (PLATFORM, AGAIN):
                raise
            self._give_up(name, f"failed: {error}")
            return None

    def _serving(self, name: str, window_ms: float) -> Any:
        self._starts += 1
        folder = self._folder / str(self._starts)
        return servers.serving(PLATFORM if name == AGAIN else name, window_ms, folder)

    def _give_up(self, name: str, reason: str) -> None:
        print(f"{name}: {reason}", file=sys.stderr)
        self.failures[name] = reason
        self.names.remove(name)
        self.samples.pop(name, None)


def picture(server: Server) -> bytes:
    connection = server.connect()
    try:
        return server.draw(connection, "a red apple on a blue background", 7_000_000)
    finally:
        connection.close()


def difference(one: bytes, other: bytes) -> int:
    """The largest difference of any channel of any pixel, in levels of 255; 255 where the sizes differ."""
    try:
        first, second = (Image.open(io.BytesIO(each)).convert("RGB") for each in (one, other))
    except OSError:
        return 255
    if first.size != second.size:
        return 255
    return int(np.asarray(ImageChops.difference(first, second)).max())
