"""The plots of a plan: one matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.lib import plots
from benchmarks.plan.levers import Lever
from benchmarks.plan.state import Outcome
from benchmarks.plan.summary import Service, latencies
from benchmarks.plan.traffic import Traffic


def charts(
    traffic: Traffic,
    outcome: Outcome,
    service: Service,
    per_image_s: float,
    pulled: Sequence[Lever],
    speed: Sequence[tuple[int, float]],
) -> Any:
    """Devices and need, queue, latency and batches over the day; what the levers save; the simulation's own time."""
    figure, grid = plots.canvas(3, 2, figsize=(12, 12))
    figure.subplots_adjust(hspace=0.35, wspace=0.3)
    hours = [tick.at_s / 3600 for tick in outcome.ticks]

    axes = grid[0][0]
    axes.step(hours, [tick.workers for tick in outcome.ticks], where="post", label="devices")
    computed = traffic.times[traffic.computed]
    counts, edges = np.histogram(computed, bins=288)
    axes.plot(
        (edges[1:] + edges[:-1]) / 7200, counts * per_image_s / np.diff(edges), label="kept busy by the work"
    )
    axes.set(title="devices", xlabel="hour", ylabel="devices", ylim=(0, None))
    axes.legend(fontsize=8)

    axes = grid[0][1]
    axes.plot(hours, [tick.waiting for tick in outcome.ticks], linewidth=0.5)
    axes.set(title="images that wait for a device", xlabel="hour", ylabel="images", ylim=(0, None))

    axes = grid[1][0]
    every, _ = latencies(traffic, outcome, service)
    bins = np.linspace(0, traffic.times[-1], 97)
    places = np.searchsorted(traffic.times, bins)
    for percent in (50, 99, 99.9):
        values = [
            float(np.percentile(every[first:last], percent)) * 1000 if last > first else np.nan
            for first, last in pairwise(places)
        ]
        axes.plot(bins[1:] / 3600, values, label=f"p{percent:g}")
    axes.axhline(service.slo_s * 1000, color="red", linewidth=0.8, label="SLO")
    axes.set(title="latency", xlabel="hour", ylabel="milliseconds", yscale="log")
    axes.legend(fontsize=8)

    axes = grid[1][1]
    sizes = sorted(outcome.batches)
    axes.bar(sizes, [outcome.batches[size] * size for size in sizes])
    axes.set(
        title="images by the batch that they were drawn in", xlabel="images in the batch", ylabel="images"
    )

    axes = grid[2][0]
    names = [lever.name for lever in pulled][::-1]
    bars = axes.barh(names, [lever.hours for lever in pulled][::-1])
    axes.set(title="what each lever saves", xlabel="device hours a day")
    axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    axes.margins(x=0.12)
    axes.tick_params(axis="y", labelsize=8)

    axes = grid[2][1]
    axes.plot(*zip(*speed, strict=True), "o-")
    axes.set(
        title="the simulation's own time",
        xlabel="jobs simulated",
        ylabel="processor seconds",
        xscale="log",
        yscale="log",
    )
    for axes in grid.flat:
        axes.grid(alpha=0.3)
    return figure
