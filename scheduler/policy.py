"""Chooses the batch for the next forward pass from all active images, whenever the device is free.

The goals are, in this order: keep the device busy, meet deadlines, be fair.

- The scheduler never waits for a fuller batch. While the device is busy, the next batch fills up.
- An image that cannot meet its deadline is not run, so it does not delay others (early drop, as in
  Nexus, Shen et al., SOSP 2019).
- The order is by fair tag (`scheduler.fairness`). Images with endangered deadlines come first, earliest
  deadline first. The first image in order determines the batch key, so no key starves. Images with the
  same key join it. Only if deadlines are endangered, several plans are simulated. The plan that serves
  most images in time wins. This may put a fuller batch, of any key, before the most urgent image.
- Half of the places go by the order. The other half goes to the images with the fewest steps taken. So a
  one-step image overtakes long ones of its key, while the oldest images still advance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from contracts.engine import BatchKey

ANYONE: Final = 0
"""The group of images that may share a batch with any other image of their key."""
LOOKAHEAD_BATCHES: Final = 4
"""How many batches ahead plans are simulated."""
OTHER_KEYS: Final = 4
"""How many other batch keys are considered at a time."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image that waits for its first or its next denoising step.

    Samples share a batch when key and group are equal. A group other than `ANYONE` isolates images after a
    failure, to find the culprit. `deadline` is in seconds, on the clock of `now`.
    """

    key: BatchKey
    tag: float = 0.0
    deadline: float = math.inf
    steps_left: int = 1
    """Values below 1 count as 1, since a waiting image is not finished."""
    steps_taken: int = 0
    group: int = ANYONE


@dataclass(frozen=True, slots=True)
class Device:
    """What is known of the device.

    `limit`: how many images may share a batch of a key. `seconds`: how long a batch of n images takes; 0.0
    while unknown.
    """

    limit: Callable[[BatchKey], int]
    seconds: Callable[[BatchKey, int], float]


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run `batch` now. The images of `late` cannot meet their deadlines and expire unrun."""

    batch: tuple[int, ...]
    late: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """There is nothing to run before `at`; infinity: until an image arrives. `late` as in `Dispatch`."""

    at: float = math.inf
    late: tuple[int, ...] = ()


def decide(now: float, queue: Sequence[Sample], device: Device) -> Dispatch | WaitUntil:
    """Choose the next batch, as indices into `queue`, which is in order of arrival. Pure."""
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
        # `max` returns the first of equal plans, which is the plan of the fair order.
        members, size = max(plans, key=lambda plan: _served(now, queue, horizon, plan, device))
    else:
        members, size = plans[0]
    return Dispatch(tuple(sorted(_fill(queue, members, size))), late)


_Plan = tuple[list[int], int]
"""Images that may share the batch, in order, and how many of them it takes."""


def _limit(device: Device, sample: Sample) -> int:
    return max(1, device.limit(sample.key))


def _order(
    now: float, queue: Sequence[Sample], alive: list[int], own: list[float], device: Device
) -> tuple[list[int], bool]:
    """Endangered images by deadline, then all others by tag; and whether any image is endangered.

    An image is endangered if it could miss its deadline when all other active images ran before it.
    """
    drain_s = 0.0
    for i in alive:
        limit = _limit(device, queue[i])
        drain_s += queue[i].steps_left * device.seconds(queue[i].key, limit) / limit

    def place(i: int) -> tuple[bool, float, float, int]:
        sample = queue[i]
        safe = now + drain_s + own[i] <= sample.deadline
        return safe, 0.0 if safe else sample.deadline, sample.tag, i

    places = sorted(place(i) for i in alive)
    return [index for *_, index in places], not places[0][0]


def _plans(
    now: float, queue: Sequence[Sample], order: list[int], device: Device, *, everybody: bool
) -> list[_Plan]:
    """Candidates for the next batch: the batch of the first image in order, and with `everybody` also others.

    The deadline of an urgent first image may allow only a small batch, and few images may share its key.
    Small batches cost throughput, and so the deadlines of later images.
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
    return plans + [(group, _largest(now, queue, group, device)) for group in others]


def _largest(now: float, queue: Sequence[Sample], members: list[int], device: Device) -> int:
    """The most members, in order, whose shared batch is short enough for the deadline of each;
    at least one."""
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
    """How many images end in time if `plan` runs first and the rest of `order` greedily after it.

    The second value breaks ties: the negative time of the last end, so the plan that ends earlier wins.
    """
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
    """`size` of the members: the first half in order, then those with the fewest steps taken."""
    if len(members) <= size:
        return members
    half = (size + 1) // 2
    rest = sorted(members[half:], key=lambda i: queue[i].steps_taken)
    return members[:half] + rest[: size - half]
