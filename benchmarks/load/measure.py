"""From samples to figures. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.load.sample import Sample

PERCENTILES: Final = (50, 90, 95, 99, 99.9)
LATE_S: Final = 0.010
"""A generator whose lag's p99 is above this, or that uses `BUSY` of a core, measures itself."""
BUSY: Final = 0.85
UNANSWERED: Final = frozenset({"timeout"})

Floats = npt.NDArray[np.float64]


def latencies(samples: Iterable[Sample]) -> Floats:
    """Seconds, of what was answered, and of what was waited for in vain: leaving that out would flatter the server."""
    return np.asarray([each.latency_s for each in samples if each.ok or each.outcome in UNANSWERED])


def percentiles(samples: Sequence[Sample]) -> dict[str, float]:
    """Milliseconds at `PERCENTILES`, and how many they are of; empty where nothing was answered."""
    found = latencies(samples)
    if not len(found):
        return {"count": 0}
    values = np.percentile(found, PERCENTILES) * 1000
    return {"count": len(found)} | {
        f"p{percent:g}": float(value) for percent, value in zip(PERCENTILES, values, strict=True)
    }


def within(samples: Sequence[Sample], slo_s: float) -> float:
    """The share of all requests, refused ones included, that succeeded within the SLO."""
    return sum(each.ok and each.latency_s <= slo_s for each in samples) / len(samples) if samples else 0.0


def growth(samples: Sequence[Sample], duration_s: float) -> float:
    """How fast the latency grows at the end, in seconds per second: medians of the middle and the last third. A queue that
    is stable has none, whatever its length."""
    thirds: list[list[float]] = [[], [], []]
    for each in samples:
        thirds[min(2, int(3 * each.at_s / duration_s))].append(each.latency_s)
    if not thirds[1] or not thirds[2]:
        return 0.0
    middle, last = float(np.median(thirds[1])), float(np.median(thirds[2]))
    # What is within a quarter of itself is noise, and no trend.
    return (last - middle) / (duration_s / 3) if last > 1.25 * middle else 0.0


def computed(samples: Iterable[Sample]) -> list[Sample]:
    """Those that a device drew: neither from the cache nor together with another."""
    return [each for each in samples if each.ok and each.cache == "miss" and each.batch_size]


def batches(samples: Sequence[Sample]) -> dict[int, float]:
    """How many batches of each size ran: every image of a batch of n tells of 1/n of it."""
    found: Counter[int] = Counter()
    for each in computed(samples):
        found[int(each.batch_size or 1)] += 1
    return {size: count / size for size, count in sorted(found.items())}


def device_use(samples: Sequence[Sample], duration_s: float, buckets: int = 60) -> tuple[Floats, Floats]:
    """(times, devices busy): how many devices' whole time the batches took, by when they ended. Of our traffic alone."""
    edges = np.linspace(0, max([duration_s, *(each.ended_s for each in samples)]), buckets + 1)
    ended = [each.ended_s for each in computed(samples)]
    seconds = [(each.batch_ms or 0) / 1000 / (each.batch_size or 1) for each in computed(samples)]
    busy, _ = np.histogram(ended, edges, weights=seconds)
    return (edges[1:] + edges[:-1]) / 2, busy / np.diff(edges)


def outstanding(samples: Sequence[Sample], points: int = 200) -> tuple[Floats, Floats]:
    """(times, requests that were sent and not yet answered)."""
    if not samples:
        return np.zeros(1), np.zeros(1)
    times = np.linspace(0, max(each.ended_s for each in samples), points)
    sent = np.searchsorted(np.sort([each.sent_s for each in samples]), times, "right")
    ended = np.searchsorted(np.sort([each.ended_s for each in samples]), times, "right")
    return times, (sent - ended).astype(float)


def by(samples: Sequence[Sample], attribute: str) -> dict[str, dict[str, float]]:
    """Percentiles of each class."""
    groups: dict[str, list[Sample]] = {}
    for each in samples:
        groups.setdefault(str(getattr(each, attribute)), []).append(each)
    return {name: percentiles(group) for name, group in sorted(groups.items())}


def classes(samples: Sequence[Sample]) -> dict[str, dict[str, dict[str, float]]]:
    """Percentiles by cache status, way of asking, shape and tenant; what has one class only is left out."""
    found = {name: by(samples, name) for name in ("cache", "mode", "label", "tenant")}
    return {name: groups for name, groups in found.items() if name == "cache" or len(groups) > 1}


def errors(samples: Iterable[Sample]) -> dict[str, int]:
    return dict(Counter(each.outcome for each in samples if not each.ok).most_common())


def figures(samples: Sequence[Sample], duration_s: float, slo_s: float, cpu_share: float) -> dict[str, float]:
    """The figures of a run. Throughput counts what ended, over the time from the first request to the last answer."""
    if not samples:
        return {"requests": 0.0}
    answered = [each for each in samples if each.ok]
    span_s = max(duration_s, max((each.ended_s for each in answered), default=0.0))
    found = {f"{name}_ms": value for name, value in percentiles(samples).items() if name != "count"}
    caches = Counter(each.cache for each in answered)
    sizes = batches(samples)
    lag = np.asarray([each.lag_s for each in samples])
    drawn = sum(count for count in sizes.values())
    result: dict[str, float] = {
        "requests": len(samples),
        "offered_per_s": len(samples) / duration_s,
        "throughput_per_s": len(answered) / span_s,
        "goodput_per_s": within(samples, slo_s) * len(samples) / duration_s,
        "within_slo": within(samples, slo_s),
        **found,
        "error_share": 1 - len(answered) / len(samples),
        "cache_hit_share": caches["hit"] / max(1, len(answered)),
        "joined_share": caches["joined"] / max(1, len(answered)),
        "device_use": float(
            sum((each.batch_ms or 0) / 1000 / (each.batch_size or 1) for each in computed(samples)) / span_s
        ),
        "generator_lag_p99_ms": float(np.percentile(lag, 99)) * 1000,
        "generator_cpu_share": cpu_share,
    }
    if drawn:
        result["mean_batch"] = sum(size * count for size, count in sizes.items()) / drawn
    return result


def bottleneck(found: dict[str, float]) -> str | None:
    """What shows that the generator, not the server, was measured; None if nothing does."""
    if found.get("generator_lag_p99_ms", 0) > LATE_S * 1000:
        return f"requests left up to {found['generator_lag_p99_ms']:.0f} ms late (p99)"
    if found.get("generator_cpu_share", 0) > BUSY:
        return f"a sending process used {found['generator_cpu_share']:.0%} of a core"
    return None


def columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """The samples as columns, for the report: enough to compare and to plot again. No ids, no prompts."""
    names = ("mode", "label", "tenant", "outcome", "cache", "batch_size")
    return {
        "at_s": [round(each.at_s, 4) for each in samples],
        "latency_s": [round(each.latency_s, 5) for each in samples],
        **{name: [getattr(each, name) for each in samples] for name in names},
    }
