"""What each lever saves: the same autoscaler on the day's work poll by poll, without the single jobs. Pure.

The whole simulation is for the plan itself; of a lever only the device hours are asked, and those follow from the work that
comes and from the rule. `fleet_hours` of the plan's own traffic stands beside the simulation's in the report, to show how good
that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.plan import devices
from benchmarks.plan.autoscaler import Autoscaler, Rule
from benchmarks.plan.devices import Device
from benchmarks.plan.traffic import Traffic

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lever:
    """`hours` a day without it, and that over the plan's own."""

    name: str
    hours: float
    factor: float


def fleet_hours(times: Floats, per_image_s: float, rule: Rule, start_up_s: float, duration_s: float) -> float:
    """Device hours of an autoscaled fleet for jobs at `times`: started devices count from their order on."""
    polls = int(duration_s / rule.poll_s)
    counts = np.diff(np.searchsorted(times, np.arange(polls + 1) * rule.poll_s))
    window = max(1, round(rule.rate_window_s / rule.poll_s))
    scaler = Autoscaler(rule)
    first = counts[:window].mean() * per_image_s / rule.poll_s
    fleet, waiting_s, hours = max(rule.least, math.ceil(first / rule.utilisation)), 0.0, 0.0
    starting: list[tuple[float, int]] = []
    for poll in range(polls):
        now = (poll + 1) * rule.poll_s
        ready = fleet - sum(count for at, count in starting if at > now)
        waiting_s = max(0.0, waiting_s + float(counts[poll]) * per_image_s - ready * rule.poll_s)
        hours += fleet * rule.poll_s / 3600
        load = float(counts[max(0, poll + 1 - window) : poll + 1].mean()) * per_image_s / rule.poll_s
        wish = scaler.desired(now, fleet, load, waiting_s)
        if wish > fleet:
            starting.append((now + start_up_s, wish - fleet))
        fleet = wish
        starting = [(at, count) for at, count in starting if at > now]
    return hours


def fixed_hours(times: Floats, per_image_s: float, rule: Rule, duration_s: float) -> float:
    """Device hours of a fleet that is always large enough for the busiest quarter of an hour."""
    counts, _ = np.histogram(times, np.arange(0, duration_s + 1, min(900.0, duration_s)))
    peak = float(counts.max()) * per_image_s / min(900.0, duration_s)
    return math.ceil(peak / rule.utilisation) * duration_s / 3600


def in_flight_apart(traffic: Traffic, flight_s: float) -> Floats:
    """Computed times if nothing were kept, but requests still joined those in flight, as it were for `flight_s` each."""
    _, inverse = np.unique(traffic.leader, return_inverse=True)
    order = np.lexsort((traffic.times, inverse))
    gaps = np.diff(traffic.times[order])
    same = inverse[order][1:] == inverse[order][:-1]
    joined = np.concatenate([[False], same & (gaps < flight_s)])
    return np.sort(traffic.times[order][~joined])


def levers(
    traffic: Traffic,
    device: Device,
    max_batch: int,
    rule: Rule,
    start_up_s: float,
    duration_s: float,
    flight_s: float,
) -> list[Lever]:
    """The plan's hours by this estimate, then those without each lever, and with those that are not pulled yet."""
    own = traffic.times[traffic.computed]

    def hours(times: Floats, scaled: Device = device, batch: int = max_batch) -> float:
        return fleet_hours(times, scaled.per_image_s(batch), rule, start_up_s, duration_s)

    def more_work(steps: int = 1, tiny: bool = False) -> Device:
        return replace(device, b_s=device.b_s * devices.work(steps, tiny))

    base = hours(own)
    table: Sequence[tuple[str, float]] = [
        ("the plan, by this estimate", base),
        ("without the cache", hours(in_flight_apart(traffic, flight_s))),
        ("without cache and single-flight", hours(traffic.times)),
        ("without batching", hours(own, batch=1)),
        ("without one-step models: 4 steps", hours(own, more_work(4))),
        ("without one-step models: 25 steps", hours(own, more_work(25))),
        ("without autoscaling", fixed_hours(own, device.per_image_s(max_batch), rule, duration_s)),
        ("with a tiny VAE", hours(own, more_work(tiny=True))),
        ("with batches twice as large", hours(own, batch=2 * max_batch)),
    ]
    return [Lever(name, value, value / base) for name, value in table]
