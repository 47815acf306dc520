"""Batching rules under a virtual clock: ours, what other servers do, and a bound that no rule can pass. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from contracts.engine import BatchKey
from scheduler.policy import Device, Dispatch, Sample, decide

LIMIT: Final = 8
KEYS: Final = tuple(BatchKey("m", side, side, guided=False) for side in (512, 640, 768))
PATIENCE: Final = (3, 6)
TICK_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class Arrival:
    at: float
    deadline: float
    key: BatchKey


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a pass of n images: a + b n."""

    a: float
    b: float

    def __call__(self, images: int) -> float:
        return self.a + self.b * images

    @property
    def capacity(self) -> float:
        """Images per second in full batches."""
        return LIMIT / self(LIMIT)


Choice = tuple[list[int], list[int]] | float
"""What to run and what to drop, as indices into the queue; or when to look again."""
Policy = Callable[[float, Sequence[Arrival], Cost], Choice]


def ours(now: float, queue: Sequence[Arrival], cost: Cost) -> Choice:
    samples = [Sample(each.key, tag=each.at, deadline=each.deadline) for each in queue]
    decision = decide(now, samples, Device(lambda _: LIMIT, lambda _, n: cost(n)))
    if isinstance(decision, Dispatch):
        return list(decision.batch), list(decision.late)
    return [], list(decision.late)


def alike(queue: Sequence[Arrival]) -> list[int]:
    """The oldest, and those after it that may share its batch."""
    return [i for i, each in enumerate(queue) if each.key == queue[0].key][:LIMIT]


def fifo(now: float, queue: Sequence[Arrival], cost: Cost) -> Choice:
    return alike(queue), []


def window(width_s: float) -> Policy:
    def policy(now: float, queue: Sequence[Arrival], cost: Cost) -> Choice:
        batch = alike(queue)
        over = queue[0].at + width_s
        return (batch, []) if len(batch) == LIMIT or now >= over - 1e-9 else over

    return policy


class Bento:
    """BentoML 1.4's dispatcher: waits while the jobs at hand times what one more would cost them stay below the mean wait."""

    def __init__(self) -> None:
        self._wait = 0.01

    def __call__(self, now: float, queue: Sequence[Arrival], cost: Cost) -> Choice:
        batch = alike(queue)
        n, newest = len(batch), now - queue[batch[-1]].at
        late = [i for i in batch if n > 1 and now + cost(n) > queue[i].deadline][:1]
        if late:
            return [], late
        if n < LIMIT and n * (newest + TICK_S + cost.b) <= 0.95 * self._wait:
            return now + TICK_S
        self._wait = 0.9 * self._wait + 0.1 * (now - queue[0].at)
        return batch, []


def simulate(arrivals: Sequence[Arrival], cost: Cost, policy: Policy) -> tuple[float, float]:
    """Goodput and images per second of one device."""
    now, queue, upcoming, met, done = 0.0, list[Arrival](), 0, 0, 0
    while queue or upcoming < len(arrivals):
        if not queue:
            now = max(now, arrivals[upcoming].at)
        while upcoming < len(arrivals) and arrivals[upcoming].at <= now:
            queue.append(arrivals[upcoming])
            upcoming += 1
        choice = policy(now, queue, cost)
        if isinstance(choice, float):
            # A job that comes meanwhile may fill the batch.
            next_at = arrivals[upcoming].at if upcoming < len(arrivals) else math.inf
            now = min(choice, next_at)
            continue
        batch, dropped = choice
        if batch:
            now += cost(len(batch))
            done += len(batch)
            met += sum(queue[i].deadline >= now - 1e-9 for i in batch)
        gone = {*batch, *dropped}
        queue = [each for i, each in enumerate(queue) if i not in gone]
    return met / len(arrivals), done / now


def clairvoyant(arrivals: Sequence[Arrival], cost: Cost) -> float:
    """No policy has a higher goodput than this."""
    slot = cost(LIMIT) / LIMIT
    now, waiting, upcoming, met = 0.0, list[float](), 0, 0
    while waiting or upcoming < len(arrivals):
        if not waiting:
            now = max(now, arrivals[upcoming].at // slot * slot)
        while upcoming < len(arrivals) and arrivals[upcoming].at < now + slot:
            heapq.heappush(waiting, arrivals[upcoming].deadline)
            upcoming += 1
        while waiting and waiting[0] <= now:
            heapq.heappop(waiting)
        if waiting:
            heapq.heappop(waiting)
            met += 1
        now += slot
    return met / len(arrivals)


def trace(
    rng: np.random.Generator, jobs: int, rate: float, mix: Sequence[float], bursty: bool, cost: Cost
) -> list[Arrival]:
    """Arrivals of `rate` a second."""
    shape = 1 / 9 if bursty else 1.0
    times = np.cumsum(rng.gamma(shape, 1 / (rate * shape), jobs))
    keys = rng.choice(len(mix), jobs, p=mix)
    patience = rng.choice(PATIENCE, jobs)
    return [
        Arrival(float(at), float(at + times_ * cost(LIMIT)), KEYS[key])
        for at, key, times_ in zip(times, keys, patience, strict=True)
    ]
