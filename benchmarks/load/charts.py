"""The plots of a load report: one matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from benchmarks.lib import plots
from benchmarks.load import measure
from benchmarks.load.capacity import Trial
from benchmarks.load.sample import Sample

QUEUE: Final = ("jobs_waiting", "waiters")
"""The server's own gauges that are numbers of requests."""


def charts(
    samples: Sequence[Sample],
    duration_s: float,
    slo_s: float,
    series: dict[str, list[tuple[float, float]]],
    trials: Sequence[Trial],
) -> Any:
    """Latency over time and as a distribution, queue and devices over time, batch sizes, and the search for capacity."""
    figure, grid = plots.canvas(3, 2, figsize=(12, 12))
    figure.subplots_adjust(hspace=0.35, wspace=0.22)
    answered = [each for each in samples if each.ok]
    kinds = sorted({each.cache or "not told" for each in answered})

    axes = grid[0][0]
    for kind in kinds:
        part = [each for each in answered if (each.cache or "not told") == kind]
        axes.plot(
            [each.at_s for each in part],
            [each.latency_s * 1000 for each in part],
            ".",
            markersize=2,
            label=kind,
            rasterized=True,
        )
    axes.axhline(slo_s * 1000, color="red", linewidth=0.8, label="SLO")
    axes.set(title="latency by when it was due", xlabel="seconds", ylabel="milliseconds", yscale="log")
    axes.legend(loc="upper right", fontsize=8)

    axes = grid[0][1]
    for kind in kinds:
        values = np.sort([each.latency_s * 1000 for each in answered if (each.cache or "not told") == kind])
        axes.plot(values, 1 - np.arange(len(values)) / len(values), label=kind)
    axes.axvline(slo_s * 1000, color="red", linewidth=0.8)
    axes.set(
        title="share of requests that took longer",
        xlabel="milliseconds",
        ylabel="share",
        xscale="log",
        yscale="log",
        ylim=(1e-4, 1),
    )
    if kinds:
        axes.legend(fontsize=8)

    axes = grid[1][0]
    times, waiting = measure.outstanding(samples)
    axes.plot(times, waiting, label="sent and not answered")
    for name, points in series.items():
        if name in QUEUE and any(value for _, value in points):
            axes.plot(*zip(*points, strict=True), linewidth=1, label=name)
    axes.set(title="queue", xlabel="seconds", ylabel="requests", ylim=(0, None))
    axes.legend(fontsize=8)

    axes = grid[1][1]
    times, busy = measure.device_use(samples, duration_s)
    axes.step(times, busy, where="mid", label="devices busy with our batches")
    if "live_workers" in series:
        axes.plot(*zip(*series["live_workers"], strict=True), label="live workers")
    axes.set(title="devices", xlabel="seconds", ylabel="devices", ylim=(0, None))
    axes.legend(fontsize=8)

    axes = grid[2][0]
    sizes = measure.batches(samples)
    axes.bar(list(sizes), list(sizes.values()))
    axes.set(title="batches by images", xlabel="images", ylabel="batches")

    axes = grid[2][1]
    for mark, holds in (("o", True), ("x", False)):
        tried = [each for each in trials if each.holds == holds]
        axes.plot(
            [each.rate for each in tried],
            [float("nan") if each.p99_ms is None else each.p99_ms for each in tried],
            mark,
            label="holds the SLO" if holds else "does not",
        )
    if trials:
        axes.axhline(slo_s * 1000, color="red", linewidth=0.8)
        axes.set(xscale="log", yscale="log")
        axes.legend(fontsize=8)
    axes.set(
        title="search for capacity" if trials else "no search for capacity",
        xlabel="requests per second",
        ylabel="p99, milliseconds",
    )
    for axes in grid.flat:
        axes.grid(alpha=0.3)
    return figure
