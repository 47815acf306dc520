"""From a simulated day to figures. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.plan import bound
from benchmarks.plan.state import Config, Outcome
from benchmarks.plan.traffic import Traffic

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Service:
    """What the platform adds to a computed image (HTTP, queue, encoding, store), and how long a cache hit takes; seconds.
    `slo_s` is what an answer may take."""

    added_s: float = 0.014
    hit_s: float = 0.005
    slo_s: float = 2.0


def latencies(traffic: Traffic, outcome: Outcome, service: Service) -> tuple[Floats, Floats]:
    """(of all requests, of the computed ones), in seconds: who joins waits for the picture, who hits does not. Infinite
    where no picture was drawn."""
    computed = traffic.computed
    ended = np.full(len(traffic.times), -np.inf)
    drawn = np.asarray(outcome.ended) + service.added_s
    ended[computed] = np.where(np.isnan(drawn), np.inf, drawn)
    of_leader = np.where(traffic.leader >= 0, ended[traffic.leader], -np.inf)
    every = np.maximum(of_leader - traffic.times, service.hit_s)
    return every, every[computed]


def figures(
    traffic: Traffic, outcome: Outcome, config: Config, service: Service, duration_s: float
) -> dict[str, float]:
    """Figures of the day. Hours and money are those of `duration_s`, scaled to a day."""
    every, own = latencies(traffic, outcome, service)
    computed = traffic.times[traffic.computed]
    per_image_s = config.device.per_image_s(config.max_batch)
    days = duration_s / 86_400
    room_s = service.slo_s - service.added_s
    clairvoyant = bound.clairvoyant_hours(computed, per_image_s, room_s, duration_s)
    fluid = bound.fluid_hours(len(computed), per_image_s)
    dollars = (
        outcome.hours - outcome.spot_hours
    ) * config.device.price + outcome.spot_hours * config.device.spot_price
    batches = sum(outcome.batches.values())
    images = sum(size * count for size, count in outcome.batches.items())
    ready = [tick.ready for tick in outcome.ticks] or [config.start]
    return {
        "requests": len(traffic.times),
        "computed_share": len(computed) / max(1, len(traffic.times)),
        "drawn": float(np.isfinite(own).sum()),
        "p50_ms": float(np.percentile(every, 50)) * 1000,
        "p99_ms": float(np.percentile(every, 99)) * 1000,
        "computed_p50_ms": float(np.percentile(own, 50)) * 1000,
        "computed_p99_ms": float(np.percentile(own, 99)) * 1000,
        "within_slo": float(np.mean(every <= service.slo_s)),
        "computed_within_slo": float(np.mean(own <= service.slo_s)),
        "goodput_per_s": float(np.sum(every <= service.slo_s)) / duration_s,
        "mean_batch": images / max(1, batches),
        "device_use": outcome.busy_s / 3600 / outcome.hours,
        "gpus_mean": outcome.hours / (duration_s / 3600),
        "gpus_max": float(outcome.most_workers),
        "gpus_ready_min": float(min(ready)),
        "queue_max": float(max((tick.waiting for tick in outcome.ticks), default=0)),
        "crashes": float(outcome.crashes),
        "gpu_hours_per_day": outcome.hours / days,
        "gpu_hours_clairvoyant": clairvoyant / days,
        "gpu_hours_fluid": fluid / days,
        "gpu_hours_over_clairvoyant": outcome.hours / clairvoyant,
        "gpu_hours_over_fluid": outcome.hours / fluid,
        "dollars_per_day": dollars / days,
        "dollars_per_1000_images": 1000 * dollars / max(1, len(traffic.times)),
        "images_per_dollar": len(traffic.times) / dollars if dollars else 0.0,
    }


def by_hour(
    traffic: Traffic, outcome: Outcome, service: Service, duration_s: float
) -> list[dict[str, float]]:
    """The plan hour by hour: requests, devices, latencies of what came in it, and the deepest queue."""
    every, _ = latencies(traffic, outcome, service)
    rows = []
    for hour in range(int(np.ceil(duration_s / 3600))):
        first, last = np.searchsorted(traffic.times, [hour * 3600.0, (hour + 1) * 3600.0])
        ticks = [tick for tick in outcome.ticks if hour * 3600 <= tick.at_s < (hour + 1) * 3600]
        if first == last:
            continue
        part = every[first:last]
        rows.append(
            {
                "hour": hour,
                "requests_per_s": (last - first) / 3600,
                "gpus_mean": float(np.mean([tick.workers for tick in ticks])) if ticks else 0.0,
                "gpus_max": max((tick.workers for tick in ticks), default=0),
                "p50_ms": float(np.percentile(part, 50)) * 1000,
                "p99_ms": float(np.percentile(part, 99)) * 1000,
                "within_slo": float(np.mean(part <= service.slo_s)),
                "queue_max": max((tick.waiting for tick in ticks), default=0),
            }
        )
    return rows
