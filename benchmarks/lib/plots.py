"""The plots that several benchmarks have. A page shows them as SVG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def canvas(*grid: int, **more: Any) -> tuple[Any, Any]:
    """matplotlib's `subplots`: a figure and its axes. matplotlib is imported here: the load test does without it."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    return pyplot.subplots(*grid, **more)


def points(axes: Any, samples: Mapping[str, Iterable[float]], ylabel: str, **more: Any) -> None:
    """A column of points for each arm, one point a round."""
    for place, found in enumerate(samples.values()):
        values = list(found)
        axes.plot([place] * len(values), values, "o", alpha=0.6)
    axes.set(xticks=range(len(samples)), ylabel=ylabel, ylim=(0, None))
    axes.set_xticklabels(list(samples), **more)
    axes.grid(alpha=0.3, axis="y")


def shares(axes: Any, series: Mapping[str, Iterable[float]], xlabel: str, ylabel: str, **more: Any) -> None:
    """Distributions as cumulative shares."""
    for name, values in series.items():
        ordered = sorted(values)
        axes.plot(ordered, [(place + 1) / len(ordered) for place in range(len(ordered))], label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel, **more)
    axes.grid(alpha=0.3)
    if len(series) > 1:
        axes.legend()
