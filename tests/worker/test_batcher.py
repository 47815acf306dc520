"""The batcher under random jobs, cancellations, failures and clock steps: no image lost, none drawn twice, no bound exceeded.

The engine is a scripted one in this process, which checks what it is asked for as strictly as a real one would suffer from it.
"""

from __future__ import annotations

import asyncio
import math
import threading
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.engine import Advanced, Batch, BatchKey, ImageFault, ImageTask, Pixels, Progress
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from runtime.clock import ManualClock
from scheduler.cost import DOUBTED_AFTER, CostModel
from scheduler.prefetch import BATCHES_HELD
from scheduler.recovery import Failure
from tests.worker.hosts import HostHere
from worker.batcher import Batcher
from worker.engine.fake import FakeEngine
from worker.engine.messages import Done, Failed
from worker.images import ImageResult, ScheduleKey, TooLate

LIMIT = 4
KEYS = [BatchKey("m", width, 64, guided=False) for width in (64, 96)]


@dataclass(frozen=True)
class Job:
    key: BatchKey
    steps: int
    kind: str = "good"
    """good, bad (raises), crash (kills the engine), nan (no picture), canceled."""
    tag: float = 0.0


jobs = st.lists(
    st.builds(
        Job,
        st.sampled_from(KEYS),
        st.integers(1, 6),
        st.sampled_from(["good"] * 6 + ["bad", "crash", "nan", "canceled"]),
        st.floats(0, 9),
    ),
    min_size=1,
    max_size=24,
)


@dataclass
class ScriptedHost(HostHere):
    """Every batch lasts until the next one is handed over, if it is to be. `oom_from`: batches of so many images do not fit."""

    oom_from: int
    clock: ManualClock
    steps_s: list[float]
    taken: dict[int, int] = field(default_factory=dict)
    tasks: dict[int, ImageTask] = field(default_factory=dict)
    finished: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    starts: int = 0
    batches: int = 0
    ahead: int = 0

    def start(self) -> ModelSpec:
        self.start_here()
        self.starts += 1
        self.tasks.clear()
        self.taken.clear()
        return FakeEngine(WorkerSettings(engine="fake", max_batch=LIMIT), "m").load()

    def wait(self, timeout_s: float | None = None) -> bool:
        if timeout_s is None:
            return True
        self.clock.advance(timeout_s)
        return False

    def send(self, batch: Batch) -> None:
        self.ahead += bool(self.sent)
        self._expect(len(self.sent) < 2, "one runs, one is at hand")
        super().send(batch)

    def run_here(self, batch: Batch) -> Done | Failed:
        self.batches += 1
        # Time jumps, backwards too.
        self.clock.advance(self.steps_s[self.batches % len(self.steps_s)])
        for sample in batch.leaving:
            self.tasks.pop(sample, None)
        self._expect(0 < len(batch.samples) <= LIMIT, "the bound is kept")
        self._expect(len(set(batch.samples)) == len(batch.samples), "nobody twice in a batch")
        for sample, task in batch.joining.items():
            self._expect(sample not in self.tasks, "who joins is new")
            self.tasks[sample], self.taken[sample] = task, 0
        for sample in batch.samples:
            self._expect(sample in self.tasks, "the engine knows everyone in the batch")
        return self._outcome(batch)

    def _outcome(self, batch: Batch) -> Done | Failed:
        prompts = [self.tasks[sample].prompt for sample in batch.samples]
        if "crash" in prompts:
            self.tasks.clear()
            return Failed(Failure.CRASH, "It died.")
        failure = Failure.FAULT if "bad" in prompts else None
        if len(prompts) >= self.oom_from:
            failure = Failure.OUT_OF_MEMORY
        if failure is not None:
            for sample in batch.samples:
                del self.tasks[sample]
            return Failed(failure, "ValueError")
        return Done([self._advance(sample) for sample in batch.samples], 0.01)

    def _advance(self, sample: int) -> Advanced:
        self.taken[sample] += 1
        task = self.tasks[sample]
        if self.taken[sample] < task.num_inference_steps:
            return Progress(self.taken[sample], task.num_inference_steps)
        self.finished.append(sample)
        del self.tasks[sample]
        return ImageFault("invalid_output", "") if task.prompt == "nan" else Pixels(1, 1, b"rgb")

    def _expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.faults.append(what)


async def drawn_by(host: ScriptedHost, jobs: list[Job]) -> list[object]:
    """What becomes of each job, all brought at once but no more than there is room for."""
    host.start()
    room = asyncio.Event()
    batcher = Batcher(host, LIMIT, host.clock, room_changed=room)
    running = asyncio.create_task(batcher.run())
    futures: list[asyncio.Future[ImageResult]] = []
    async with asyncio.timeout(30):
        for job in jobs:
            while not batcher.room():
                room.clear()
                if not batcher.room():
                    await room.wait()
            task = ImageTask(job.kind, "", len(futures), job.steps)
            futures.append(batcher.add(job.key, task, ScheduleKey(job.tag, math.inf)))
            # One that has ended is dropped by the device's thread, a moment later.
            held = [image for image in list(batcher._active.images) if not image.result.done()]
            assert len(held) <= BATCHES_HELD * LIMIT
            if job.kind == "canceled":
                futures[-1].cancel()
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
    await batcher.stop()
    await running
    assert batcher.backlog_steps() == 0, "nothing is left in hand"
    return list(outcomes)


@settings(deadline=None, max_examples=150)
@given(jobs, st.integers(2, 6), st.lists(st.floats(-5, 5), min_size=1, max_size=5))
def test_every_image_ends_once_and_as_it_should(jobs: list[Job], oom_from: int, steps_s: list[float]) -> None:
    host = ScriptedHost(oom_from, ManualClock(), steps_s)
    outcomes = asyncio.run(drawn_by(host, jobs))
    assert not host.faults
    assert len(host.finished) == len(set(host.finished)), "none is drawn twice"
    assert len(outcomes) == len(jobs), "N in, N out"
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job.kind == "canceled":
            assert isinstance(outcome, asyncio.CancelledError)
            continue
        assert isinstance(outcome, ImageResult), (job, outcome)
        assert outcome.batch_size <= LIMIT
        if job.kind == "good":
            assert isinstance(outcome.image, Pixels), "a neighbour's fault is not its own"
        else:
            assert isinstance(outcome.image, ImageFault)
            assert outcome.image.code == {"bad": "engine_fault", "crash": "engine_crashed"}.get(
                job.kind, "invalid_output"
            )


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(1, 8))
def test_what_cannot_be_drawn_in_time_is_told_and_not_begun(count: int, steps: int) -> None:
    async def late() -> tuple[list[object], ScriptedHost]:
        clock = ManualClock()
        host = ScriptedHost(99, clock, [0.0])
        cost = CostModel()
        for images in (1, 2, 4):
            cost.ran(KEYS[0], images, 1.0 + images)
        host.start()
        batcher = Batcher(host, LIMIT, clock, cost)
        running = asyncio.create_task(batcher.run())
        deadline = clock.monotonic() + 1.9 * steps
        task = ImageTask("good", "", 1, steps)
        futures = [batcher.add(KEYS[0], task, ScheduleKey(0.0, deadline)) for _ in range(count)]
        async with asyncio.timeout(10):
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
        await batcher.stop()
        await running
        return list(outcomes), host

    outcomes, host = asyncio.run(late())
    assert all(isinstance(outcome, TooLate) for outcome in outcomes)
    assert host.batches == 0


def test_deadlines_shorter_than_a_slow_first_batch_are_met_after_a_while() -> None:
    async def asked() -> list[object]:
        clock = ManualClock()
        host = ScriptedHost(99, clock, [0.0])
        cost = CostModel()
        cost.ran(KEYS[0], 1, 30.0)
        host.start()
        batcher = Batcher(host, LIMIT, clock, cost)
        running = asyncio.create_task(batcher.run())
        outcomes: list[object] = []
        for number in range(DOUBTED_AFTER + 5):
            task = ImageTask("good", "", number, 1)
            drawn = batcher.add(KEYS[0], task, ScheduleKey(0.0, clock.monotonic() + 5.0))
            async with asyncio.timeout(10):
                outcomes += await asyncio.gather(drawn, return_exceptions=True)
        await batcher.stop()
        await running
        return outcomes

    outcomes = asyncio.run(asked())
    assert [isinstance(each, TooLate) for each in outcomes] == [True] * DOUBTED_AFTER + [False] * 5


def test_a_draining_batcher_finishes_what_it_has_begun_and_gives_back_the_rest() -> None:
    async def drained() -> tuple[list[object], ScriptedHost]:
        clock, gate, begun = ManualClock(), threading.Event(), threading.Event()
        host = ScriptedHost(99, clock, [0.0])
        run = host.run_here

        def gated(batch: Batch) -> Done | Failed:
            begun.set()
            gate.wait(10)
            return run(batch)

        host.run_here = gated  # type: ignore[method-assign]
        host.start()
        batcher = Batcher(host, LIMIT, clock)
        running = asyncio.create_task(batcher.run())
        first = [
            batcher.add(KEYS[0], ImageTask("good", "", n, 3), ScheduleKey(0.0, math.inf)) for n in range(2)
        ]
        await asyncio.to_thread(begun.wait, 10)
        rest = [
            batcher.add(KEYS[1], ImageTask("good", "", n, 3), ScheduleKey(0.0, math.inf)) for n in range(3)
        ]
        batcher.drain()
        gate.set()
        async with asyncio.timeout(10):
            outcomes = await asyncio.gather(*first, *rest, return_exceptions=True)
            await running
        return list(outcomes), host

    outcomes, host = asyncio.run(drained())
    # The first batch may have begun with one of the two; what had begun took all of its three steps.
    ended = [isinstance(outcome, ImageResult) for outcome in outcomes]
    assert ended[0]
    assert not any(ended[2:])
    assert host.batches == 3
