"""What a request meets on its way besides the device: the processor that door, worker and services share. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Station:
    """Seconds of the shared processor that a request takes before the queue and after its pass, and the rest of its way, on
    which nobody stands in another's way; `gap_s` passes between a pass's end and the next one's begin."""

    before_s: float
    after_s: float
    way_in_s: float
    way_out_s: float
    gap_s: float = 0.0


def served(times: Floats, each_s: float) -> Floats:
    """When those that come at `times` leave one server that takes `each_s` seconds, first come, first served (Lindley 1952)."""
    order = np.argsort(times, kind="stable")
    place = each_s * np.arange(len(times), dtype=np.float64)
    left = np.maximum.accumulate(times[order] - place) + place + each_s
    found: Floats = np.empty_like(left)
    found[order] = left
    return found


def share(times: Floats, each_s: float) -> float:
    """How much of one processor it takes."""
    span = float(times.max() - times.min()) if len(times) > 1 else 0.0
    return min(0.95, len(times) * each_s / span) if span > 0 else 0.0


def way_in(times: Floats, station: Station) -> Floats:
    """When requests made at `times` are in the queue. What the ends of others take of the processor makes it slower."""
    slowed = station.before_s / (1 - share(times, station.after_s))
    return served(times, slowed) + station.way_in_s


def way_out(times: Floats, station: Station) -> Floats:
    """When those whose passes ended at `times` are answered."""
    slowed = station.after_s / (1 - share(times, station.before_s))
    return served(times, slowed) + station.way_out_s
