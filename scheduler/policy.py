"""What runs next: the batch for one forward pass, chosen from all that is in hand whenever the device is free.

Work-conserving, deadline-aware, and fair in that order of defence:

- Nothing is held back for a fuller batch: while the device is busy the next one fills by itself.
- What can no longer make its deadline is not run, so that it drags nobody down with it (early drop, as in Nexus, Shen et
  al., SOSP 2019).
- The order is that of the fair tags (`scheduler.fairness`), unless a deadline is endangered: those go first, the earliest
  first. Whoever leads the order decides the batch key, so that no key starves; those that share it go along.
- Half of the places belong to the order, the other half to those that have had the least of the device so far: a
  one-step image overtakes the long ones beside it, and yet the oldest always move on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from contracts.engine import BatchKey

ANYONE: Final = 0
LOOKAHEAD_BATCHES: Final = 4
"""How far two plans are played out to tell which one serves more images in time."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image that waits for its first denoising step, or for its next one. Samples share a pass when key and group are
    equal; a group other than `ANYONE` is set apart after a failure, to find the culprit. `deadline` is on the clock of
    `now`, in seconds."""

    key: BatchKey
    tag: float = 0.0
    deadline: float = math.inf
    steps_left: int = 1
    steps_taken: int = 0
    group: int = ANYONE


@dataclass(frozen=True, slots=True)
class Device:
    """What is known of the device: how many images may share a pass, and how many seconds a pass of n images takes
    (0.0 while nobody knows)."""

    limit: Callable[[BatchKey], int]
    seconds: Callable[[BatchKey, int], float]


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run these now, in one pass. `late`: these can no longer make their deadlines, and expire unrun."""

    batch: tuple[int, ...]
    late: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """There is nothing to run before `at` (infinity: until something comes)."""

    at: float = math.inf
    late: tuple[int, ...] = ()


def decide(now: float, queue: Sequence[Sample], device: Device) -> Dispatch | WaitUntil:
    """The next pass, as indices into `queue`, which is in order of arrival. Pure."""
    own = [sample.steps_left * device.seconds(sample.key, 1) for sample in queue]
    late = tuple(i for i, sample in enumerate(queue) if now + own[i] > sample.deadline)
    alive = [i for i in range(len(queue)) if now + own[i] <= queue[i].deadline]
    if not alive:
        return WaitUntil(late=late)
    order = _order(now, queue, alive, own, device)
    lead = queue[order[0]]
    members = [i for i in order if queue[i].key == lead.key and queue[i].group == lead.group]
    limit = max(1, device.limit(lead.key))
    first, size = _feasible(now, [queue[i] for i in members], limit, device)
    batch = _fill(queue, members[first:], size)
    return Dispatch(tuple(sorted(batch)), late)


def _order(
    now: float, queue: Sequence[Sample], alive: list[int], own: list[float], device: Device
) -> list[int]:
    """The endangered by deadline, then all others by tag. Endangered is what may miss its deadline if everything else in
    hand went before it."""
    drain_s = 0.0
    for i in alive:
        limit = max(1, device.limit(queue[i].key))
        drain_s += queue[i].steps_left * device.seconds(queue[i].key, limit) / limit

    def place(i: int) -> tuple[bool, float, float, int]:
        sample = queue[i]
        safe = now + drain_s + own[i] <= sample.deadline
        return safe, 0.0 if safe else sample.deadline, sample.tag, i

    return sorted(alive, key=place)


def _feasible(now: float, members: list[Sample], limit: int, device: Device) -> tuple[int, int]:
    """Where in `members` the batch begins, and how many it holds, so that nobody in it misses a deadline.

    An urgent head may only be met by a small batch, and small batches cost throughput. If passing it over for a fuller one
    serves more images in time over the next batches, it is passed over.
    """
    key = members[0].key
    room_s = [(sample.deadline - now) / sample.steps_left for sample in members]
    whole = min(limit, len(members))
    if device.seconds(key, whole) <= min(room_s[:whole]):
        return 0, whole
    costs = [0.0] + [device.seconds(key, n) for n in range(1, limit + 1)]
    head = _largest(room_s, 0, costs)
    for start in range(1, len(members)):
        size = _largest(room_s, start, costs)
        if size > head:
            horizon = members[: LOOKAHEAD_BATCHES * limit]
            if _served(now, horizon, start, size, costs) > _served(now, horizon, 0, head, costs):
                return start, size
            break
    return 0, head


def _largest(room_s: Sequence[float], start: int, costs: Sequence[float]) -> int:
    """The most members from `start` on that can share a pass which none of them finds too long; at least one."""
    size, least = 0, math.inf
    for room in room_s[start : start + len(costs) - 1]:
        least = min(least, room)
        if costs[size + 1] > least:
            break
        size += 1
    return max(1, size)


def _served(now: float, members: list[Sample], start: int, size: int, costs: Sequence[float]) -> int:
    """How many of `members` end in time if `size` of them from `start` on go first, and the rest greedily after them."""
    begun = members[start : start + size]
    now += costs[len(begun)] * max(sample.steps_left for sample in begun)
    served, rest = len(begun), members[:start] + members[start + size :]
    while rest:
        rest = [sample for sample in rest if now + costs[1] * sample.steps_left <= sample.deadline]
        if not rest:
            break
        rooms = [(sample.deadline - now) / sample.steps_left for sample in rest]
        size = _largest(rooms, 0, costs)
        now += costs[size] * max(sample.steps_left for sample in rest[:size])
        served, rest = served + size, rest[size:]
    return served


def _fill(queue: Sequence[Sample], members: list[int], size: int) -> list[int]:
    """`size` of the members: the first half in their order, the rest those with the fewest steps taken."""
    if len(members) <= size:
        return members
    half = (size + 1) // 2
    rest = sorted(members[half:], key=lambda i: queue[i].steps_taken)
    return members[:half] + rest[: size - half]
