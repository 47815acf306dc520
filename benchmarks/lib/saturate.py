"""A closed load: clients that each hold one request, and ask again as soon as it is answered."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

from benchmarks.lib.asking import Unanswered, connect, draw, fresh

CLIENTS: Final = 32
"""Four full batches of eight."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Saturation(Generic[T]):
    """Answers per second in the time that counts, and these answers; of the whole load, how many came and how many did not."""

    rate: float
    counted: list[T]
    drawn: int
    failed: int


def saturate(
    connected: Callable[[], http.client.HTTPConnection],
    ask: Callable[[http.client.HTTPConnection], T],
    seconds: float,
    clients: int = CLIENTS,
) -> Saturation[T]:
    """Asks for `seconds` that count, after a fifth of that to fill up. An `Unanswered` is counted as failed."""
    until = time.perf_counter() + 1.2 * seconds
    since = until - seconds
    ended: list[tuple[float, T]] = []
    failed: list[str] = []

    def client() -> None:
        with closing(connected()) as connection:
            while time.perf_counter() < until:
                try:
                    found = ask(connection)
                    ended.append((time.perf_counter(), found))
                except Unanswered as error:
                    failed.append(str(error))

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client) for _ in range(clients)]:
            done.result()
    counted = [found for at, found in ended if since <= at <= until]
    return Saturation(len(counted) / seconds, counted, len(ended), len(failed))


def draw_rate(url: str, seconds: float) -> tuple[float, list[int]]:
    """New images per second through a platform's REST API, and the size of the batch of each. Raises `Unanswered`."""
    found = saturate(partial(connect, url), lambda connection: draw(connection, fresh())[1], seconds)
    if found.failed:
        raise Unanswered(f"{found.failed} of {found.drawn + found.failed} jobs failed.")
    return found.rate, [job["timings"]["batch_size"] for job in found.counted]
