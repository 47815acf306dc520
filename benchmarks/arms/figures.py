"""The figures, tables and plot of a comparison of two revisions. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from benchmarks import report
from benchmarks.arms.deployment import EMBEDDED, FAKE
from benchmarks.arms.processes import PARTS
from benchmarks.arms.sessions import Drawn
from benchmarks.arms.trips import Trips
from benchmarks.lib import plots
from benchmarks.lib.ratios import ratio

ARMS: Final = ("before", "now", "now_again")
T = TypeVar("T")


@dataclass
class Found:
    """Samples by arm: one a round, and of what is weighed or counted one alone. What is counted of `now` alone has no control."""

    drawn: dict[str, dict[str, list[Drawn]]] = field(default_factory=dict)
    submits: dict[str, list[float]] = field(default_factory=dict)
    weighed: dict[str, dict[str, float]] = field(default_factory=dict)
    trips: dict[str, Trips] = field(default_factory=dict)


def figures_of(found: Found) -> dict[str, float]:
    figures: dict[str, float] = {}

    def compare(name: str, samples: dict[str, list[float]]) -> None:
        """The first of the two equal arms beside the old one, and beside the second."""
        before, now, again = (samples[arm] for arm in ARMS)
        figures.update(ratio(now, before).figures(name))
        figures.update(ratio(again, now).figures(f"{name}_control"))

    def each(samples: dict[str, list[T]], value: Callable[[T], float]) -> dict[str, list[float]]:
        return {arm: [value(one) for one in values] for arm, values in samples.items()}

    for model, name in ((FAKE, "cpu_over_before"), (EMBEDDED, "cpu_over_before_embedded")):
        drawn = found.drawn[model]
        compare(name, each(drawn, lambda one: one.total_ms))
        compare(f"throughput_over_before_{model}", each(drawn, lambda one: one.rate))
    compare("submit_rate_over_before", found.submits)
    for arm in ARMS:
        end = "" if arm == "now" else f"_{arm}"
        for model in (FAKE, EMBEDDED):
            drawn = found.drawn[model]
            figures[f"cpu_ms_{model}{end}"] = statistics.median(one.total_ms for one in drawn[arm])
            for part in PARTS:
                middle = statistics.median(one.cpu_ms[part] for one in drawn[arm])
                figures[f"cpu_ms_{model}_{part}{end}"] = middle
            figures[f"throughput_{model}{end}"] = statistics.median(one.rate for one in drawn[arm])
        figures[f"submits_per_s{end}"] = statistics.median(found.submits[arm])
        for name in ("device_idle", "core_idle", "images_per_pass"):
            values = [getattr(one, name) for one in found.drawn[EMBEDDED][arm]]
            figures[f"{name}{end}"] = statistics.median(values)
    for name, one in counted(found).items():
        now, before = one["now"], one["before"]
        figures.update({name: now, f"{name}_before": before, f"{name}_over_before": now / before})
        if "now_again" in one:
            figures[f"{name}_over_before_control"] = one["now_again"] / now
    return figures


def counted(found: Found) -> dict[str, dict[str, float]]:
    """What is counted or weighed once on each arm, by figure and arm."""
    values: dict[str, Callable[[Trips], float]] = {
        "redis_commands": lambda one: one.usual.commands,
        "redis_commands_alone": lambda one: one.alone.commands,
        "redis_scripts": lambda one: one.usual.scripts,
        "redis_exchanges": lambda one: one.usual.exchanges,
        "redis_exchanges_alone": lambda one: one.alone.exchanges,
        "awaited_trips": lambda one: one.total,
        "amqp_frames": lambda one: one.usual.frames,
    }
    weights = {
        "redis_bytes_queued": "redis_bytes_queued",
        "redis_bytes_finished": "redis_bytes_finished",
        "api_rss_mb": "api_mb",
        "worker_rss_mb": f"worker_mb_{EMBEDDED}",
        "worker_rss_mb_fake": f"worker_mb_{FAKE}",
    }
    arms = [arm for arm in ARMS if arm in found.trips]
    return {
        **{name: {arm: value(found.trips[arm]) for arm in arms} for name, value in values.items()},
        **{name: {arm: found.weighed[arm][key] for arm in arms} for name, key in weights.items()},
    }


def samples_of(found: Found) -> dict[str, Any]:
    def of(one: Drawn) -> dict[str, Any]:
        cpu = {name: round(value, 3) for name, value in one.cpu_ms.items()}
        idle = {"device_idle": round(one.device_idle, 4), "core_idle": round(one.core_idle, 4)}
        return {
            "rate": round(one.rate, 2),
            "cpu_ms": cpu,
            **idle,
            "images_per_pass": round(one.images_per_pass, 2),
        }

    return {
        **{
            model: {arm: [of(one) for one in drawn[arm]] for arm in ARMS}
            for model, drawn in found.drawn.items()
        },
        "submits_per_s": {arm: [round(rate, 2) for rate in rates] for arm, rates in found.submits.items()},
        "awaited": {arm: one.awaited for arm, one in found.trips.items()},
    }


def tables_of(figures: dict[str, float], found: Found) -> dict[str, report.Table]:
    ratios = [name for name in figures if f"{name}_low" in figures and not name.endswith("_control")]
    shown = ("median", "from", "to", "A/A", "from", "to")
    ends = ("", "_low", "_high", "_control", "_control_low", "_control_high")
    return {
        "ratios of neighbours": [
            ["figure", *shown],
            *([name, *(f"{figures[name + end]:.3f}" for end in ends)] for name in ratios),
        ],
        "counted and weighed": [
            ["figure", *ARMS],
            *(
                [name, *(f"{values[arm]:.5g}" if arm in values else "" for arm in ARMS)]
                for name, values in counted(found).items()
            ),
        ],
        "CPU a picture, milliseconds": [
            ["engine", "part", *ARMS],
            *(
                [model, part, *(f"{_middle(drawn[arm], part):.2f}" for arm in ARMS)]
                for model, drawn in found.drawn.items()
                for part in PARTS
            ),
        ],
        "awaited exchanges": [
            ["arm", "kind", "trips"],
            *([arm, kind, times] for arm, one in found.trips.items() for kind, times in one.awaited.items()),
        ],
    }


def _middle(drawn: list[Drawn], part: str) -> float:
    return statistics.median(one.cpu_ms[part] for one in drawn)


def plot_of(found: Found) -> Any:
    """CPU a picture with both engines, and submits a second: one point a round."""
    figure, axes = plots.canvas(1, 3, figsize=(13, 4))
    panels = [
        (f"CPU a picture, {model} (ms)", {arm: [one.total_ms for one in drawn[arm]] for arm in ARMS})
        for model, drawn in found.drawn.items()
    ]
    for each, (title, values) in zip(axes, [*panels, ("submits a second", found.submits)], strict=True):
        plots.points(each, values, "")
        each.set(title=title)
    return figure
