"""A fleet of workers under a virtual clock: what they run next is decided by the platform's own `scheduler`.

One event a pass, one for what happens to a worker, and none for an arrival beyond its place in the queue. As in the platform, the
store keeps what waits in the order of the fair clock's tags; a message wakes the workers in turn; a worker takes what it has room
for, one batch, when it is woken idle, and shortly before its pass should end; one that is idle looks by itself now and then.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Final

import numpy as np

from benchmarks.plan.autoscaler import Autoscaler
from benchmarks.plan.fair_clock import FairClock
from benchmarks.plan.state import Config, Outcome, Tick, Worker
from contracts.engine import BatchKey
from contracts.jobs import Priority
from scheduler import policy
from scheduler.fairness import flow_of, weight_of
from scheduler.policy import Dispatch, Sample, decide
from scheduler.prefetch import BATCHES_HELD, LEAD_S, LEAD_SHARE

IDLE_S: Final = 1.0
"""As `worker.job_fetcher.IDLE_S`: how often an idle worker looks."""
END, RIPE, LOOK, READY, FAIL, TICK, AGAIN = range(7)
KEY: Final = BatchKey("simulated", 512, 512, False)


class Simulation:
    """Jobs that come at `times` (seconds, ascending), each of `steps[i]` steps (one by default), at a fleet. The
    policy expects passes to take what the device's line says; `taken` tells what they do take, if not that. `run` it once."""

    def __init__(
        self,
        times: Sequence[float],
        config: Config,
        rng: np.random.Generator,
        steps: Sequence[int] | None = None,
        taken: Callable[[int], float] | None = None,
    ) -> None:
        self._times = times
        self._steps = steps
        self._config = config
        self._rng = rng
        self._now = 0.0
        self._events: list[tuple[float, int, int, Worker | None, object]] = []
        self._seq = 0
        self._store: list[tuple[float, int]] = []
        self._clock = FairClock()
        self._flow = flow_of("public", Priority.INTERACTIVE)
        self._weight = weight_of(Priority.INTERACTIVE)
        costs = [config.device.seconds(n) for n in range(config.max_batch + 1)]
        self._costs = costs
        self._taken = taken or costs.__getitem__
        self._device = policy.Device(lambda _: config.max_batch, lambda _, images: costs[images])
        self._workers: list[Worker] = []
        self._ring: list[Worker] = []
        self._idle: dict[Worker, None] = {}
        self._turn = 0
        self._arrived = 0
        self._pending = len(times)
        self._per_image_s = config.device.per_image_s(config.max_batch)
        self.outcome = Outcome(array("d", [math.nan]) * len(times))

    def run(self, until: float = math.inf) -> Outcome:
        """Until every job has ended, and at least until `until` seconds, if that is finite."""
        config = self._config
        for _ in range(config.start):
            self._hire(0.0, already=True)
        if config.rule is not None:
            self._scaler = Autoscaler(config.rule)
            self._seen: deque[tuple[float, int]] = deque([(0.0, 0)])
            self._at(config.rule.poll_s, TICK)
        times, events, arrive, end_pass = self._times, self._events, self._arrive, self._end_pass
        total, number = len(times), 0
        coming = times[0] if total else math.inf
        while self._pending or (math.isfinite(until) and self._now < until):
            if not self._pending and (not events or events[0][0] > until):
                # What else would happen happens after the end.
                self._now = until
            elif events and events[0][0] <= coming:
                self._now, _, kind, worker, what = heappop(events)
                if kind == END:
                    assert worker is not None
                    end_pass(worker, what)
                elif kind == RIPE:
                    assert worker is not None
                    if worker.batch and self._now >= worker.ripe_s:
                        self._take(worker)
                else:
                    self._happen(kind, worker, what)
            elif number < total:
                self._now = coming
                arrive(number)
                number += 1
                coming = times[number] if number < total else math.inf
            elif not events:
                break
        for worker in self._workers:
            if not worker.gone:
                self._dismiss(worker)
        return self.outcome

    def _at(self, time: float, kind: int, worker: Worker | None = None, what: object = None) -> None:
        self._seq += 1
        heappush(self._events, (time, self._seq, kind, worker, what))

    def _arrive(self, job: int) -> None:
        self._arrived += 1
        cost = 1.0 if self._steps is None else float(self._steps[job])
        heappush(self._store, (self._clock.ticket(self._flow, cost, self._weight), job))
        ring = self._ring
        if ring:
            self._turn = (self._turn + 1) % len(ring)
            worker = ring[self._turn]
            if self._now >= worker.ripe_s or not worker.batch:
                self._wake(worker)
            elif self._idle:
                # Nobody tells the idle ones: the first of them to look by itself finds it.
                worker = next(iter(self._idle))
                if not worker.looks:
                    worker.looks = True
                    wait_s = float(self._rng.uniform(0, IDLE_S / len(self._idle)))
                    self._at(self._now + wait_s, LOOK, worker, worker.life)

    def _wake(self, worker: Worker) -> None:
        self._take(worker)
        if not worker.batch and worker.hand:
            self._dispatch(worker)

    def _take(self, worker: Worker) -> None:
        store = self._store
        if not store or worker.draining:
            return
        most, held = self._config.max_batch, len(worker.hand)
        room = min(most - held + worker.begun, BATCHES_HELD * most - held)
        ttl_s, times, steps = self._config.ttl_s, self._times, self._steps
        while room > 0 and store:
            tag, job = heappop(store)
            self._clock.served(tag)
            worker.hand.append(job)
            worker.samples.append(Sample(KEY, tag, times[job] + ttl_s, 1 if steps is None else steps[job]))
            room -= 1

    def _dispatch(self, worker: Worker) -> None:
        decision = decide(self._now, worker.samples, self._device)
        if decision.late:
            self._expire(worker, decision.late)
            if isinstance(decision, Dispatch):
                decision = decide(self._now, worker.samples, self._device)
        if not isinstance(decision, Dispatch):
            return
        batch = worker.batch = decision.batch
        images = len(batch)
        if self._steps is None:
            worker.begun = images
        else:
            worker.begun += sum(not worker.samples[index].steps_taken for index in batch)
        self._idle.pop(worker, None)
        seconds = self._taken(images)
        self.outcome.batches[images] += 1
        self.outcome.busy_s += seconds
        self._seq += 1
        heappush(self._events, (self._now + seconds, self._seq, END, worker, worker.life))
        expected = self._costs[images]
        worker.ripe_s = self._now + max(0.0, expected - LEAD_S - LEAD_SHARE * expected)
        if worker.ripe_s < self._now + seconds:
            self._seq += 1
            heappush(self._events, (worker.ripe_s, self._seq, RIPE, worker, None))

    def _end_pass(self, worker: Worker, life: object) -> None:
        if life != worker.life:
            return
        ended, now, hand, samples = self.outcome.ended, self._now, worker.hand, worker.samples
        done = set()
        for index in worker.batch:
            sample = samples[index]
            if sample.steps_left == 1:
                ended[hand[index]] = now
                done.add(index)
            else:
                samples[index] = Sample(
                    sample.key, sample.tag, sample.deadline, sample.steps_left - 1, sample.steps_taken + 1
                )
        if done:
            worker.hand = [job for index, job in enumerate(hand) if index not in done]
            worker.samples = [sample for index, sample in enumerate(samples) if index not in done]
        worker.begun -= len(done)
        worker.batch = ()
        self._pending -= len(done)
        if worker.hand and not (worker.draining and not worker.begun):
            self._dispatch(worker)
        else:
            self._wake(worker)
            if not worker.batch and not worker.draining:
                self._idle[worker] = None
        if worker.draining and not worker.hand:
            self._dismiss(worker)

    def _expire(self, worker: Worker, late: Sequence[int]) -> None:
        gone = set(late)
        worker.begun -= sum(worker.samples[index].steps_taken > 0 for index in gone)
        worker.hand = [job for index, job in enumerate(worker.hand) if index not in gone]
        worker.samples = [sample for index, sample in enumerate(worker.samples) if index not in gone]
        self._pending -= len(gone)

    def _happen(self, kind: int, worker: Worker | None, what: object) -> None:
        if kind == TICK:
            self._tick()
        elif kind == AGAIN:
            assert isinstance(what, list)
            self._put_back(what)
        elif worker is not None and not worker.gone and what == worker.life:
            if kind == LOOK:
                worker.looks = False
                self._wake(worker)
            elif kind == READY:
                worker.ready = True
                self._ring.append(worker)
                self._idle[worker] = None
                self._wake(worker)
            elif worker.spot:
                self._drain(worker)
            else:
                self._crash(worker)

    def _put_back(self, jobs: list[tuple[float, int]]) -> None:
        for job in jobs:
            heappush(self._store, job)
        for worker in list(self._idle):
            self._wake(worker)

    def _tick(self) -> None:
        rule = self._config.rule
        assert rule is not None
        while len(self._seen) > 1 and self._seen[0][0] < self._now - rule.rate_window_s:
            self._seen.popleft()
        since, arrived = self._seen[0]
        load = (self._arrived - arrived) * self._per_image_s / max(self._now - since, rule.poll_s)
        waiting = len(self._store) + sum(len(worker.hand) - worker.begun for worker in self._ring)
        self._workers = [worker for worker in self._workers if not worker.gone]
        staff = [worker for worker in self._workers if not worker.draining]
        wish = self._scaler.desired(self._now, len(staff), load, waiting * self._per_image_s)
        for _ in range(wish - len(staff)):
            self._hire(self._now)
        # As the ReplicaSet does: those that are not ready yet go first, then those that have least to do.
        idle = sorted(staff, key=lambda worker: (worker.ready, len(worker.hand)))
        for worker in idle[: max(0, len(staff) - wish)]:
            self._drain(worker)
        done = self._arrived - self._seen[-1][1]
        self._seen.append((self._now, self._arrived))
        self.outcome.ticks.append(Tick(self._now, len(self._workers), len(self._ring), waiting, done))
        if self._pending:
            self._at(self._now + rule.poll_s, TICK)

    def _hire(self, now: float, already: bool = False) -> None:
        config = self._config
        worker = Worker(bool(self._rng.uniform() < config.spot_share), now)
        self._workers.append(worker)
        self.outcome.most_workers = max(self.outcome.most_workers, len(self._workers))
        self._at(now if already else now + config.start_up_s, READY, worker, worker.life)
        life_s = config.spot_life_s if worker.spot else config.life_s
        if math.isfinite(life_s):
            self._at(now + float(self._rng.exponential(life_s)), FAIL, worker, worker.life)

    def _drain(self, worker: Worker) -> None:
        """It finishes what it has begun and gives the rest back, as on SIGTERM."""
        if worker.draining:
            return
        worker.draining = True
        self._leave(worker)
        keep = [
            index
            for index, sample in enumerate(worker.samples)
            if sample.steps_taken or index in worker.batch
        ]
        kept = set(keep)
        back = [
            (sample.tag, job)
            for index, (sample, job) in enumerate(zip(worker.samples, worker.hand, strict=True))
            if index not in kept
        ]
        places = {index: place for place, index in enumerate(keep)}
        worker.hand = [worker.hand[index] for index in keep]
        worker.samples = [worker.samples[index] for index in keep]
        worker.batch = tuple(places[index] for index in worker.batch)
        if not worker.hand:
            self._dismiss(worker)
        self._put_back(back)

    def _crash(self, worker: Worker) -> None:
        config = self._config
        self.outcome.crashes += 1
        self._leave(worker)
        jobs = [(sample.tag, job) for sample, job in zip(worker.samples, worker.hand, strict=True)]
        if jobs:
            self._at(self._now + config.lease_s, AGAIN, None, jobs)
        worker.hand, worker.samples, worker.batch, worker.begun = [], [], (), 0
        worker.life += 1
        worker.ready = worker.looks = False
        if worker.draining:
            self._dismiss(worker)
            return
        self._at(self._now + config.start_up_s, READY, worker, worker.life)
        self._at(self._now + float(self._rng.exponential(config.life_s)), FAIL, worker, worker.life)

    def _leave(self, worker: Worker) -> None:
        self._idle.pop(worker, None)
        if worker in self._ring:
            self._ring.remove(worker)

    def _dismiss(self, worker: Worker) -> None:
        worker.gone = True
        hours = (self._now - worker.born) / 3600
        self.outcome.hours += hours
        if worker.spot:
            self.outcome.spot_hours += hours
