"""What runs next: the batch for one forward pass, chosen from all that is in hand whenever the device is free.

Work-conserving, deadline-aware, and fair in that order of defence:

- Nothing is held back for a fuller batch: while the device is busy the next one fills by itself.
- What can no longer make its deadline is not run, so that it drags nobody down with it (early drop, as in Nexus, Shen et
  al., SOSP 2019).
- The order is that of the fair tags (`scheduler.fairness`), unless a deadline is endangered: those go first, the earliest
  first. Whoever leads the order decides the batch key, so that no key starves; those that share it go along. Where
  deadlines are endangered, and only there, plans are played out against each other, and the one that serves most in
  time wins: a fuller batch, of the same key or another, may then go before the most urgent one.
- Half of the places belong to the order, the other half to those that have had the least of the device so far: a
  one-step image overtakes the long ones beside it, and yet the oldest always move on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from contracts.engine import BatchKey

ANYONE: Final = 0
LOOKAHEAD_BATCHES: Final = 4
"""How far plans are played out to tell which one serves most images in time."""
OTHER_KEYS: Final = 4
"""Batch keys that are considered at a time."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image that waits for its first denoising step, or for its next one. Samples share a pass when key and group are
    equal; a group other than `ANYONE` is set apart after a failure, to find the culprit. `deadline` is on the clock of
    `now`, in seconds."""

    key: BatchKey
    tag: float = 0.0
    deadline: float = math.inf
    steps_left: int = 1
    """At least one is taken for granted: an image that waits is not finished."""
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
    queue = [sample if sample.steps_left >= 1 else replace(sample, steps_left=1) for sample in queue]
    own = [sample.steps_left * device.seconds(sample.key, 1) for sample in queue]
    late = tuple(i for i, sample in enumerate(queue) if now + own[i] > sample.deadline)
    alive = [i for i in range(len(queue)) if now + own[i] <= queue[i].deadline]
    if not alive:
        return WaitUntil(late=late)
    order, endangered = _order(now, queue, alive, own, device)
    plans = _plans(now, queue, order, device, everybody=endangered)
    if len(plans) > 1:
        horizon = order[: LOOKAHEAD_BATCHES * _limit(device, queue[order[0]])]
        # Of equal ones the first, which is that of the order.
        members, size = max(plans, key=lambda plan: _served(now, queue, horizon, plan, device))
    else:
        members, size = plans[0]
    return Dispatch(tuple(sorted(_fill(queue, members, size))), late)


_Plan = tuple[list[int], int]
"""Those who may share the pass, in order, and how many of them it takes."""


def _limit(device: Device, sample: Sample) -> int:
    return max(1, device.limit(sample.key))


def _order(
    now: float, queue: Sequence[Sample], alive: list[int], own: list[float], device: Device
) -> tuple[list[int], bool]:
    """The endangered by deadline, then all others by tag; and whether there are any. Endangered is what may miss its
    deadline if everything else in hand went before it."""
    drain_s = 0.0
    for i in alive:
        limit = _limit(device, queue[i])
        drain_s += queue[i].steps_left * device.seconds(queue[i].key, limit) / limit

    def place(i: int) -> tuple[bool, float, float, int]:
        sample = queue[i]
        safe = now + drain_s + own[i] <= sample.deadline
        return safe, 0.0 if safe else sample.deadline, sample.tag, i

    places = sorted(place(i) for i in alive)
    return [each[-1] for each in places], not places[0][0]


def _plans(
    now: float, queue: Sequence[Sample], order: list[int], device: Device, *, everybody: bool
) -> list[_Plan]:
    """What may run next: the batch of the one who leads the order, and with `everybody` also what would spare deadlines.

    An urgent head may only be met by a small batch, and so may a batch key that few share; small batches cost throughput,
    and with it the deadlines of those behind.
    """
    groups: dict[tuple[BatchKey, int], list[int]] = {}
    for i in order:
        groups.setdefault((queue[i].key, queue[i].group), []).append(i)
    members = next(iter(groups.values()))
    size = _largest(now, queue, members, device)
    plans = [(members, size)]
    if not everybody:
        return plans
    for start in range(1, len(members)):
        fuller = _largest(now, queue, members[start:], device)
        if fuller > size:
            plans.append((members[start:], fuller))
            break
    others = list(groups.values())[1:OTHER_KEYS]
    return plans + [(each, _largest(now, queue, each, device)) for each in others]


def _largest(now: float, queue: Sequence[Sample], members: list[int], device: Device) -> int:
    """The most members that can share a pass which none of them finds too long for its deadline; at least one."""
    key, size, least = queue[members[0]].key, 0, math.inf
    for i in members[: _limit(device, queue[members[0]])]:
        least = min(least, (queue[i].deadline - now) / queue[i].steps_left)
        if device.seconds(key, size + 1) > least:
            break
        size += 1
    return max(1, size)


def _served(
    now: float, queue: Sequence[Sample], order: list[int], plan: _Plan, device: Device
) -> tuple[int, float]:
    """How many end in time if the plan goes first and the rest of `order` greedily after it; and, so that of equal plans the
    one is better that leaves more of the device to those who come, how early they have ended."""
    served, rest = 0, order
    members, size = plan
    while True:
        batch = members[:size]
        now += device.seconds(queue[batch[0]].key, size) * max(queue[i].steps_left for i in batch)
        served += size
        gone = set(batch)
        rest = [
            i
            for i in rest
            if i not in gone
            and now + queue[i].steps_left * device.seconds(queue[i].key, 1) <= queue[i].deadline
        ]
        if not rest:
            return served, -now
        lead = queue[rest[0]]
        members = [i for i in rest if queue[i].key == lead.key and queue[i].group == lead.group]
        size = _largest(now, queue, members, device)


def _fill(queue: Sequence[Sample], members: list[int], size: int) -> list[int]:
    """`size` of the members: the first half in their order, the rest those with the fewest steps taken."""
    if len(members) <= size:
        return members
    half = (size + 1) // 2
    rest = sorted(members[half:], key=lambda i: queue[i].steps_taken)
    return members[:half] + rest[: size - half]
