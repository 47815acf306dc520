"""The figures and samples of the comparison with other servers. Pure."""

from __future__ import annotations

import statistics
from typing import Any, Final

from benchmarks.lib.ratios import Ratio, means, ratio
from benchmarks.peer_apps.comparison import AGAIN, SHARES, Comparison, Sample
from benchmarks.peer_apps.servers import PLATFORM

SLO_BATCHES: Final = 2.5
"""The objective: a picture within this many full batches. One may be running, one draws it, half of one for the rest."""


def figures_of(comparison: Comparison) -> dict[str, float]:
    """Medians over the rounds; ratios are of samples of the same round, and below them those to the best peer."""
    samples, slo_s = comparison.samples, slo(comparison.capacity)
    figures: dict[str, float] = {"slo_ms": 1000 * slo_s, "capacity": comparison.capacity}
    rates, p99s = _rates(samples), _p99s(samples)

    def over(values: dict[str, list[float]], name: str) -> Ratio:
        """The platform's over those of `name`, round by round."""
        return ratio(means(values[PLATFORM], values[AGAIN]), values[name])

    throughputs = {name: over(rates, name) for name in comparison.names}
    latencies = {name: over(p99s, name) for name in comparison.names}
    if throughputs:
        best = min(throughputs.values(), key=lambda each: each.median)
        figures |= best.figures("throughput_over_best_peer")
        figures |= max(latencies.values(), key=lambda each: each.median).figures("p99_over_best_peer")
    figures |= ratio(rates[PLATFORM], rates[AGAIN]).figures("control_throughput_ratio")
    figures |= ratio(p99s[PLATFORM], p99s[AGAIN]).figures("control_p99_ratio")
    for name in comparison.names:
        figures |= throughputs[name].figures(f"throughput_over_{name}")
        figures |= latencies[name].figures(f"p99_over_{name}")
        figures[f"window_ms_{name}"] = comparison.windows_ms[name]
    for name, rounds in samples.items():
        figures[f"throughput_{name}"] = statistics.median(each.rate for each in rounds)
        figures[f"drawing_cpu_ms_{name}"] = statistics.median(each.drawing_ms for each in rounds)
        figures[f"other_cpu_ms_{name}"] = statistics.median(each.rest_ms for each in rounds)
        figures[f"failed_{name}"] = sum(
            each.failed + sum(offered.failed for offered in each.offered.values()) for each in rounds
        )
        for share in SHARES:
            offered = [each.offered[share] for each in rounds]
            load = f"{name}_at_{share:.0%}".removesuffix("%")
            figures[f"p50_ms_{load}"] = statistics.median(each.median_ms() for each in offered)
            figures[f"p99_ms_{load}"] = statistics.median(each.quantile_ms(0.99) for each in offered)
            figures[f"goodput_{load}"] = statistics.median(each.within(slo_s) for each in offered)
    return figures


def _rates(samples: dict[str, list[Sample]]) -> dict[str, list[float]]:
    return {name: [each.rate for each in rounds] for name, rounds in samples.items()}


def _p99s(samples: dict[str, list[Sample]]) -> dict[str, list[float]]:
    return {name: [each.p99_ms for each in rounds] for name, rounds in samples.items()}


def slo(capacity: float) -> float:
    """The objective in seconds, by what a full batch takes on this machine."""
    return SLO_BATCHES * 8 / capacity


def samples_of(comparison: Comparison) -> dict[str, Any]:
    """Of each server and round: throughput, CPU, and all latencies in milliseconds by load."""
    return {
        name: [
            {
                "throughput": round(each.rate, 3),
                "failed": each.failed,
                "drawing_cpu_ms": round(each.drawing_ms, 3),
                "other_cpu_ms": round(each.rest_ms, 3),
                "latencies_ms": {
                    str(share): [round(1000 * taken, 1) for taken in offered.answered_s]
                    for share, offered in each.offered.items()
                },
            }
            for each in rounds
        ]
        for name, rounds in comparison.samples.items()
    }
