"""The least that anybody could do it with who knew the future: what the plan is measured against. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

SLOT_S: Final = 60.0
"""Clouds bill a started device for a minute at least."""

Floats = npt.NDArray[np.float64]


def fluid_hours(count: int, per_image_s: float) -> float:
    """Device hours if work were a liquid: every batch full, no device ever idle, none ever started in vain."""
    return count * per_image_s / 3600


def clairvoyant_hours(
    times: Floats, per_image_s: float, slo_s: float, duration_s: float, slot_s: float = SLOT_S
) -> float:
    """A lower bound on the device hours of any schedule with whole devices, each running for whole slots, that ends every
    computed image at `times` within `slo_s`. Batches are always full, devices start in no time and never fail.

    What comes within a slot, `slo_s` before its end at the latest, must be done within it or the slots before, and nothing
    can be done before it comes: so every slot needs that work's time in whole devices at least. What comes later may be moved to
    the next slot, and all together need the liquid's hours.
    """
    slots = int(np.ceil(duration_s / slot_s))
    edges = np.arange(slots) * slot_s
    begun = np.searchsorted(times, edges)
    due = np.searchsorted(times, np.maximum(edges + slot_s - slo_s, edges))
    devices = np.ceil((due - begun) * per_image_s / slot_s)
    return max(float(devices.sum()) * slot_s / 3600, fluid_hours(len(times), per_image_s))
