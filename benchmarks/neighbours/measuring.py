"""The attacks, and what is measured of the good client before, during and after each."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterable
from typing import Any, Final

import psutil

from benchmarks.neighbours import memory
from benchmarks.neighbours.figures import Found, Row
from benchmarks.neighbours.good import KINDS, Good
from benchmarks.neighbours.place import Attack, Place, Size, served

PLACES: Final = {"direct": False, "proxied": True}
SETTLE_S: Final = (0.5, 20.0)
"""After an attack, until its connections have gone."""
FEW: Final = 40

Took = dict[str, list[float]]


def attacks(size: Size) -> dict[str, dict[str, Any]]:
    """What `attack` is told, by name."""
    third = size.slow // 3
    slow = {"head": size.slow - 2 * third, "body": third, "deaf": third}
    return {
        "control": {"what": "none"},
        "idle": {"what": "crowd", "kinds": {"idle": size.idle}, "addresses": size.addresses},
        "slow": {"what": "crowd", "kinds": slow, "addresses": size.addresses},
        "within": {"what": "greedy", "streams": size.streams // 4, "reads_per_s": 40.0, "submits_per_s": 9.0},
        "streams": {"what": "greedy", "streams": size.streams},
        "reads": {"what": "greedy", "reads_per_s": 200.0},
        "submits": {"what": "greedy", "submits_per_s": 50.0},
    }


def p99(values: list[float]) -> float:
    return sorted(values)[max(0, round(0.99 * len(values)) - 1)]


def settle(place: Place) -> None:
    least_s, most_s = SETTLE_S
    time.sleep(least_s)
    until = time.monotonic() + most_s
    while memory.connections(place.api_port)[0] > FEW and time.monotonic() < until:
        time.sleep(0.2)


def cpu_of(place: Place) -> float:
    """Seconds of CPU that the API has taken. What other programs do to times they do not do to this."""
    times = psutil.Process(place.api_pid).cpu_times()
    return float(times.user + times.system)


async def attacked(
    place: Place, good: Good, what: dict[str, Any], seconds: float, before: Took
) -> tuple[Row, Took]:
    """One attack: what was measured of it, and the calm after it."""
    attack = Attack(place, what)
    memory.forget_peak(place.api_pid)
    await asyncio.to_thread(attack.start)
    await asyncio.sleep(seconds / 5)  # what was asked at the beginning is answered
    cpu_s = [cpu_of(place)]
    first = [memory.connections(port) for port in (place.api_port, place.port)]
    during = await good.phase(seconds)
    last = [memory.connections(port) for port in (place.api_port, place.port)]
    peak_mb = memory.peak_mb(place.api_pid)
    cpu_s.append(cpu_of(place))
    met = await asyncio.to_thread(attack.stop)
    await asyncio.to_thread(settle, place)
    cpu_s.append(cpu_of(place))
    after = await good.phase(seconds)
    cpu_s.append(cpu_of(place))
    row = {
        "p99_ms": {
            kind: [round(1000 * p99(took[kind]), 3) for took in (before, during, after)] for kind in KINDS
        },
        "p50_ms": {
            kind: [round(1000 * statistics.median(took[kind]), 3) for took in (before, during, after)]
            for kind in KINDS
        },
        "cpu_s": {"during": round(cpu_s[1] - cpu_s[0], 2), "after": round(cpu_s[3] - cpu_s[2], 2)},
        "rss_mb": peak_mb,
        "connections": max(first[0][0], last[0][0]),
        "queued_mb": max(first[0][1], last[0][1]),
        "front_connections": max(first[1][0], last[1][0]),
        "front_queued_mb": max(first[1][1], last[1][1]),
        "met": met,
        "load": os.getloadavg()[0],
    }
    return row, after


async def measure(
    size: Size, rounds: int, seconds: float, places: Iterable[str], names: Iterable[str]
) -> tuple[Found, list[str]]:
    """Rows of each attack by place, and what the good client got instead of right answers."""
    found: Found = {}
    failed = []
    for place_name in places:
        rows: dict[str, list[Row]] = {name: [] for name in names}
        found[place_name] = rows
        with served(size, proxied=PLACES[place_name]) as place:
            good = Good(place.port, place.good)
            await good.begin()
            await good.phase(seconds / 2)  # warms up
            calm = await good.phase(seconds)
            for _ in range(rounds):
                for name in rows:
                    row, calm = await attacked(place, good, attacks(size)[name], seconds, calm)
                    rows[name].append(row)
                    print(place_name, name, row["p99_ms"], row["met"], flush=True)
        failed += [f"{place_name} {each}" for each in good.failed]
    return found, failed
