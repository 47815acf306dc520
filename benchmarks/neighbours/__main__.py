"""A good client beside ten thousand idle connections, two thousand slow ones, and a greedy tenant.

    python -m benchmarks.neighbours --json out.json --html out.html

RabbitMQ, Redis, the API and one worker run for real; the engine is the fake one. The good client polls a job, submits one and reads a
picture, each 8 times a second, on a new connection each time. Its requests leave when they are due, and are measured from then. It is
measured before, during and after each attack; attacks come from a process of their own and from many addresses of loopback:

- `control`: no attack. What the machine does by itself (A/A).
- `idle`: connections that say nothing. Who is closed connects again.
- `slow`: a third each of heads that never end, of bodies that never end (a byte every two seconds), and of clients that ask for 150
  large answers and read none.
- `within`: a tenant that uses its limits up: 250 streams on one running job, 40 reads and 9 submits a second.
- `streams`, `reads`, `submits`: a tenant far above its limits: 1,000 streams where 256 are allowed, 200 reads a second of 50, 50 submits of 10.

Once directly at the API, with a limit by address and room for all connections (`direct`), and once behind HAProxy with docs/haproxy.cfg as it is
(`proxied`). For each attack `p99_during_over_before` is the ratio of the good client's 99th percentiles: for each kind of request the median over
rounds, and of the kinds the worst. `api_cpu_during_over_after` compares the API's CPU time, to which other programs on the machine do
little. `memory_peak_mb` is the API's with its children, with what the kernel holds in the queues of its connections.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterable
from typing import Any, Final

import psutil

from benchmarks import arguments, report
from benchmarks.neighbours import memory
from benchmarks.neighbours.attack import raise_open_files
from benchmarks.neighbours.good import KINDS, PER_S, Good
from benchmarks.neighbours.place import (
    FULL,
    GREEDY_LIMITS,
    QUICK,
    READS_PER_MINUTE,
    Attack,
    Place,
    Size,
    served,
)

PLACES: Final = {"direct": False, "proxied": True}
PHASES: Final = ("before", "during", "after")
SETTLE_S: Final = (0.5, 20.0)
"""After an attack, until its connections have gone."""
FEW: Final = 40
BOUND: Final = 3.0
"""What the ratio must not exceed."""

Took = dict[str, list[float]]
Row = dict[str, Any]
Found = dict[str, dict[str, list[Row]]]
"""Rows by place and attack."""


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
        async with served(size, proxied=PLACES[place_name]) as place:
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


def ratios(rows: list[Row], phase: int) -> dict[str, float]:
    """By kind, the median over rounds of the p99 in that phase over the one before."""
    return {
        kind: statistics.median(row["p99_ms"][kind][phase] / row["p99_ms"][kind][0] for row in rows)
        for kind in KINDS
    }


def figures_of(found: Found, failed: list[str], limit_mb: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    for place, rows_of in found.items():
        for attack, rows in rows_of.items():
            for number, phase in enumerate(PHASES[1:], 1):
                figures[f"{place}_{attack}_p99_{phase}_over_before"] = max(ratios(rows, number).values())
            cpu = [row["cpu_s"] for row in rows]
            figures[f"{place}_{attack}_api_cpu_during_over_after"] = statistics.median(
                each["during"] / each["after"] for each in cpu
            )
        rows = [row for rows in rows_of.values() for row in rows]
        figures[f"{place}_memory_peak_mb"] = max(row["rss_mb"] + row["queued_mb"] for row in rows)
        figures[f"{place}_connections"] = float(max(row["front_connections"] for row in rows))
    during = {name: value for name, value in figures.items() if name.endswith("_p99_during_over_before")}
    control = {name: value for name, value in during.items() if "_control_" in name}
    figures["p99_during_over_before"] = max(value for name, value in during.items() if name not in control)
    figures["control_p99_during_over_before"] = max(control.values())
    peak = max(figures[f"{place}_memory_peak_mb"] for place in found)
    return {
        **figures,
        "memory_limit_mb": limit_mb,
        "memory_peak_over_limit": peak / limit_mb,
        "good_failed": float(len(failed)),
    }


def tables_of(found: Found) -> dict[str, report.Table]:
    tables: dict[str, report.Table] = {}
    for place, rows_of in found.items():
        times: list[list[object]] = [
            ["attack", "request", *(f"{phase}, p99 ms" for phase in PHASES), "during / before"]
        ]
        met: list[list[object]] = [
            [
                "attack",
                "connections in front, at the API",
                "memory, MiB",
                "in queues in front, at the API, MiB",
                "API's CPU s during, after",
                "met",
            ]
        ]
        for attack, rows in rows_of.items():
            over = ratios(rows, 1)
            for kind in KINDS:
                columns = zip(*(row["p99_ms"][kind] for row in rows), strict=True)
                cells = [f"{statistics.median(values):.1f}" for values in columns]
                times.append([attack, kind, *cells, f"{over[kind]:.2f}"])
            last = rows[-1]
            words = ", ".join(f"{name} {count}" for name, count in last["met"].items())
            most = {
                name: max(row[name] for row in rows)
                for name in rows[0]
                if name not in ("p99_ms", "p50_ms", "met", "cpu_s")
            }
            met.append(
                [
                    attack,
                    f"{most['front_connections']}, {most['connections']}",
                    f"{most['rss_mb']:.0f}",
                    f"{most['front_queued_mb']:.1f}, {most['queued_mb']:.1f}",
                    ", ".join(
                        f"{statistics.median(row['cpu_s'][phase] for row in rows):.2f}"
                        for phase in PHASES[1:]
                    ),
                    words,
                ]
            )
        tables[f"the good client, {place} (medians over rounds)"] = times
        tables[f"what the attacks met, {place}"] = met
    return tables


def plot_of(found: Found) -> Any:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(found), figsize=(11, 4), sharey=True, squeeze=False)
    for axes, (place, rows_of) in zip(panels[0], found.items(), strict=True):
        for shift, kind in enumerate(KINDS):
            places = [number + 0.25 * (shift - 1) for number in range(len(rows_of))]
            axes.bar(places, [ratios(rows, 1)[kind] for rows in rows_of.values()], 0.25, label=kind)
        axes.axhline(BOUND, color="black", linestyle="--", linewidth=1)
        axes.set(title=place, ylabel="p99 during over before")
        axes.set_xticks(range(len(rows_of)), list(rows_of))
        axes.legend()
    return figure


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES), help="by default all")
    names = list(attacks(FULL))
    parser.add_argument(
        "--attacks",
        nargs="+",
        choices=names[1:],
        default=names[1:],
        help="by default all; the control always",
    )
    parser.add_argument("--rounds", type=arguments.count, default=3, help="with --quick always one")
    args = parser.parse_args()
    size, rounds, seconds = (QUICK, 1, 0.5) if args.quick else (FULL, args.rounds, 8.0)
    files = raise_open_files()
    if files < size.open_files:
        raise SystemExit(
            f"This needs {size.open_files} open files in a process, and the system allows {files}: raise the hard limit "
            "(ulimit -Hn, LimitNOFILE)."
        )
    chosen = [name for name in names if name in (names[0], *args.attacks)]
    load = os.getloadavg()[0]
    found, failed = asyncio.run(measure(size, rounds, seconds, args.places, chosen))
    figures = figures_of(found, failed, memory.chart_limit_mb())
    config = {
        "idle": size.idle,
        "slow": size.slow,
        "streams": size.streams,
        "addresses": size.addresses,
        "direct": size.direct,
        "proxied": size.proxied,
        "reads_per_minute": READS_PER_MINUTE,
        "greedy_limits": GREEDY_LIMITS,
        "good_per_s": PER_S * len(KINDS),
        "rounds": rounds,
        "seconds": seconds,
        "engine": "fake",
        "load_before": load,
        "load_after": os.getloadavg()[0],
    }
    summary = (
        f"neighbours: the good client's p99 is at most {figures['p99_during_over_before']:.1f} times that before "
        f"(A/A {figures['control_p99_during_over_before']:.1f}); the API takes {100 * figures['memory_peak_over_limit']:.0f} % of the "
        f"chart's limit; {len(failed)} requests failed"
    )
    samples: dict[str, Any] = {**found, "failed": failed[:100]}
    report.publish(args, "neighbours", config, figures, samples, plot_of(found), tables_of(found), summary)


if __name__ == "__main__":
    main()
