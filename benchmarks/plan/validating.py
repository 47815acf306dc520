"""Simulated against measured: every run of a platform, and its simulation with what the other runs tell. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np

from benchmarks.load.sample import Sample
from benchmarks.plan.calibration import Calibration, calibrated, simulate
from benchmarks.report import Table

MAX_BATCH: Final = 8
DRAWS: Final = 9
"""Simulations of a run: what is told of them is their median, so that their own chance tells nothing."""
COMPARED: Final = ("p50_ms", "p99_ms", "throughput_per_s")

Compared = dict[str, float]
Twins = tuple[list[Sample], list[Sample]]


@dataclass(frozen=True, slots=True)
class Round:
    """Samples of one request at a time, and of the twins of each load."""

    idle: list[Sample]
    loads: tuple[Twins, ...]


def compared(latencies_s: Sequence[float], last_s: float, duration_s: float) -> Compared:
    p50, p99 = np.percentile(latencies_s, (50, 99)) * 1000
    return {
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "throughput_per_s": len(latencies_s) / max(duration_s, last_s),
    }


def measured(samples: Sequence[Sample], duration_s: float) -> Compared:
    return compared([each.latency_s for each in samples], max(each.ended_s for each in samples), duration_s)


def calibration_for(rounds: Sequence[Round], number: int, load: int, twin: int) -> Calibration:
    """What all runs but this one tell of it, and the other twin of how things deviate."""
    this = rounds[number].loads[load]
    others = [run for each in rounds for twins in each.loads for run in twins if run is not this[twin]]
    full = [run for each in rounds for run in each.loads[-1] if run is not this[twin]]
    return calibrated([each.idle for each in rounds], others, full, this[1 - twin])


def simulated(samples: Sequence[Sample], known: Calibration, duration_s: float, seed: int) -> Compared:
    """The median of the figures of `DRAWS` simulated runs with the arrivals of these samples."""
    times = [each.at_s for each in samples]
    found = []
    for draw in range(DRAWS):
        latencies = simulate(times, known, MAX_BATCH, seed * DRAWS + draw)
        found.append(compared(latencies.tolist(), float((np.asarray(times) + latencies).max()), duration_s))
    return {name: float(np.median([each[name] for each in found])) for name in COMPARED}


def compare(
    rounds: Sequence[Round], shares: Sequence[float], durations: Sequence[float]
) -> list[dict[str, Any]]:
    """Every run of every load, measured and simulated; in the order of loads, of rounds in a load, and of twins."""
    rows: list[dict[str, Any]] = []
    for load, share in enumerate(shares):
        for number, twin in product(range(len(rounds)), (0, 1)):
            samples = rounds[number].loads[load][twin]
            known = calibration_for(rounds, number, load, twin)
            rows.append(
                {
                    "share": share,
                    "round": number,
                    "twin": twin,
                    "measured": measured(samples, durations[load]),
                    "simulated": simulated(samples, known, durations[load], len(rows)),
                    "told": {"a_s": known.a_s, "b_s": known.b_s, "gap_s": known.gap_s},
                }
            )
    return rows


def ratios(rows: Sequence[dict[str, Any]], share: float, name: str) -> tuple[list[float], list[float]]:
    """(simulated over measured, the second twin over the first) of one figure of one load, by round."""
    of = [row for row in rows if row["share"] == share]
    first, second = ([row for row in of if row["twin"] == twin] for twin in (0, 1))
    pairs = list(zip(first, second, strict=True))
    sims = [
        math.sqrt(math.prod(row["simulated"][name] / row["measured"][name] for row in pair)) for pair in pairs
    ]
    return sims, [after["measured"][name] / before["measured"][name] for before, after in pairs]


def short(name: str) -> str:
    return name.removesuffix("_ms").removesuffix("_per_s")


def figures_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of every load the median over rounds, of the loads the worst; and how far twins differ."""
    shares = sorted({row["share"] for row in rows})
    found: dict[str, float] = {}
    for name in COMPARED:
        by_load = {share: float(np.median(ratios(rows, share, name)[0])) - 1 for share in shares}
        found[f"sim_error_{short(name)}"] = max(abs(each) for each in by_load.values())
        found |= {
            f"sim_over_measured_{short(name)}_at_{share:g}": 1 + each for share, each in by_load.items()
        }
    for name in COMPARED:
        pairs = [np.abs(np.asarray(ratios(rows, share, name)[1]) - 1) for share in shares]
        found[f"control_{short(name)}"] = max(float(np.median(each)) for each in pairs)
    for name in ("a_s", "b_s", "gap_s"):
        found[name] = float(np.median([row["told"][name] for row in rows]))
    return found


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    heads = [
        "load",
        "round",
        "twin",
        *(f"{name} {kind}" for name in COMPARED for kind in ("measured", "simulated")),
    ]
    return [
        heads,
        *(
            [
                f"{row['share']:g}",
                row["round"] + 1,
                row["twin"] + 1,
                *(f"{row[kind][name]:.4g}" for name in COMPARED for kind in ("measured", "simulated")),
            ]
            for row in rows
        ),
    ]
