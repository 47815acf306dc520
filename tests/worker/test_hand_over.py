"""The next batch is at hand when one ends, and what goes wrong with it is held against those who ran: real engine processes, the fake one."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contracts.engine import Batch, BatchKey, ImageFault, ImageTask, Pixels, Progress
from contracts.settings import WorkerSettings
from runtime.clock import SystemClock
from scheduler.cost import CostModel
from scheduler.recovery import Failure
from worker.batcher import Batcher
from worker.engine.host import EngineHost
from worker.engine.messages import Answer, Done, Failed, Unrun
from worker.images import ImageResult, ScheduleKey

pytestmark = pytest.mark.slow

KEY = BatchKey("fake", 64, 64, guided=False)
WIDE = BatchKey("fake", 96, 64, guided=False)
LIMIT = 2
TIMEOUT_S = 30.0


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def batch(*prompts: str, first: int = 0) -> Batch:
    tasks = {first + n: ImageTask(prompt, "", first + n) for n, prompt in enumerate(prompts)}
    return Batch(KEY, tuple(tasks), tasks)


def begun(host: EngineHost) -> int:
    assert host._engine is not None
    return host._engine.begun()[0]


def kill_engine(host: EngineHost) -> None:
    assert host.pid is not None
    os.kill(host.pid, signal.SIGKILL)


@pytest.fixture
def host() -> Iterator[EngineHost]:
    host = EngineHost(WorkerSettings(engine="fake", model="fake", batch_timeout_s=2.0))
    host.start()
    yield host
    host.kill()


def test_a_batch_that_was_handed_over_begins_before_the_answer_to_the_one_before_is_read(
    host: EngineHost,
) -> None:
    # More than a socket holds: nobody reads it yet.
    tasks = {n: ImageTask("a", "", n) for n in range(4)}
    host.send(Batch(BatchKey("fake", 512, 512, guided=False), tuple(tasks), tasks))
    host.send(batch("slow=0.01 b", first=10))
    until(lambda: begun(host) == 2)
    first, second = host.receive(), host.receive()
    assert isinstance(first, Done)
    assert isinstance(second, Done)
    assert [len(first.samples), len(second.samples)] == [4, 1]


def test_an_engine_that_is_killed_died_of_what_it_ran_not_of_what_it_was_handed(host: EngineHost) -> None:
    host.send(batch("slow=20 a"))
    host.send(batch("b", first=10))
    until(lambda: begun(host) == 1)
    kill_engine(host)
    first, second = host.receive(), host.receive()
    assert first == Failed(Failure.CRASH, "The engine process died.")
    assert isinstance(second, Unrun)
    assert not host.alive
    host.start()
    assert isinstance(host.run(batch("b")), Done)


def test_an_answer_that_dies_with_the_engine_is_no_crash_of_its_batch(host: EngineHost) -> None:
    """The batch before was drawn, and its pixels were still on their way when the next one killed the engine."""
    tasks = {n: ImageTask("a", "", n) for n in range(4)}
    host.send(Batch(BatchKey("fake", 1024, 1024, guided=False), tuple(tasks), tasks))
    host.send(batch("fault:crash", first=10))
    assert host._engine is not None
    assert host._engine._process.wait(TIMEOUT_S) == 86
    first, second = host.receive(), host.receive()
    assert isinstance(first, Unrun)
    assert second == Failed(Failure.CRASH, "The engine process died.")


def test_a_batch_has_its_time_from_its_beginning(host: EngineHost) -> None:
    host.send(batch("slow=1.2 a"))
    host.send(batch("slow=1.2 b", first=10))
    assert isinstance(host.receive(), Done)
    assert isinstance(host.receive(), Done), "together they took longer than one may"
    host.send(batch("slow=0.2 a"))
    host.send(batch("fault:hang", first=10))
    assert isinstance(host.receive(), Done)
    assert host.receive() == Failed(Failure.CRASH, "The engine hung.")


@pytest.mark.parametrize("prompt", ["fault:raise", "fault:oom>=1"])
def test_behind_a_batch_that_failed_nothing_runs_that_was_chosen_without_knowing(
    host: EngineHost, prompt: str
) -> None:
    host.send(batch(f"slow=0.2 {prompt}"))
    host.send(batch("b", first=10))
    assert isinstance(host.receive(), Failed)
    assert isinstance(host.receive(), Unrun)
    assert isinstance(host.run(batch("b", first=10)), Done), "the engine does not know it yet"


class Watched(EngineHost):
    """Notes the batches, and what became of each."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self.batches: list[Batch] = []
        self.ahead: list[bool] = []
        self.answers: list[Answer] = []

    def send(self, batch: Batch) -> None:
        self.ahead.append(bool(self._sent))
        super().send(batch)
        self.batches.append(batch)

    def receive(self) -> Answer:
        answer = super().receive()
        self.answers.append(answer)
        return answer


@dataclass
class Site:
    """A batcher with its engine. `fresh` numbers the seeds, which the fake engine writes down as it draws them."""

    host: Watched
    batcher: Batcher
    drawn: Path
    tasks: list[asyncio.Future[ImageResult]] = field(default_factory=list)

    def add(self, prompt: str, key: BatchKey = KEY, steps: int = 1) -> asyncio.Future[ImageResult]:
        task = ImageTask(prompt, "", len(self.tasks), steps)
        self.tasks.append(
            self.batcher.add(key, task, ScheduleKey(float(len(self.tasks)), time.monotonic() + 999))
        )
        return self.tasks[-1]

    async def handed_over(self) -> None:
        """Returns once a batch runs and another one is at hand."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.host._sent) < 2 or begun(self.host) != self.host._sent[0].number:
                await asyncio.sleep(0.002)

    def seeds(self) -> list[int]:
        return [int(line) for line in self.drawn.read_text().split()]


@pytest.fixture
async def site(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Site]:
    log = tmp_path / "drawn"
    log.touch()
    settings = WorkerSettings(engine="fake", model="fake", max_batch=LIMIT, fake_log=log)
    host, cost = Watched(settings), CostModel()
    for key in (KEY, WIDE):
        for images in (1, LIMIT):
            cost.ran(key, images, 0.02)
    await asyncio.to_thread(host.start)
    batcher = Batcher(host, LIMIT, SystemClock(), cost)
    running = asyncio.create_task(batcher.run())
    yield Site(host, batcher, log)
    await batcher.stop()
    await running


@pytest.mark.anyio
async def test_one_step_images_of_one_key_and_of_another_are_handed_over_while_a_batch_runs(
    site: Site,
) -> None:
    images = [site.add("slow=0.1 a", KEY if n < 6 else WIDE) for n in range(10)]
    async with asyncio.timeout(TIMEOUT_S):
        drawn = await asyncio.gather(*images)
    assert all(isinstance(each.image, Pixels) for each in drawn)
    assert sorted(site.seeds()) == list(range(10))
    # The very first may have begun before the second was there.
    assert site.host.ahead.count(False) == 1
    assert all(isinstance(each, Done) for each in site.host.answers)


@pytest.mark.anyio
async def test_samples_that_go_on_are_handed_over_and_the_last_step_is_the_last(site: Site) -> None:
    images = [site.add("slow=0.03 a", steps=steps) for steps in (6, 3)]
    async with asyncio.timeout(TIMEOUT_S):
        drawn = await asyncio.gather(*images)
    assert all(isinstance(each.image, Pixels) for each in drawn)
    samples = [advanced for done in site.host.answers if isinstance(done, Done) for advanced in done.samples]
    assert sum(isinstance(each, Progress) for each in samples) == 5 + 2
    assert len(samples) == 6 + 3, "nobody takes a step too many"
    assert any(site.host.ahead)


@pytest.mark.anyio
async def test_an_engine_killed_with_a_batch_handed_over_costs_its_images_nothing(site: Site) -> None:
    running = [site.add("slow=0.3 a") for _ in range(LIMIT)]
    waiting = [site.add("slow=0.3 b") for _ in range(LIMIT)]
    held = {image.id: image for image in site.batcher._active.images}
    await site.handed_over()
    ran, behind = site.host.batches[-2:]
    kill_engine(site.host)
    async with asyncio.timeout(TIMEOUT_S):
        drawn = await asyncio.gather(*running, *waiting)
    assert all(isinstance(each.image, Pixels) for each in drawn)
    assert [type(each) for each in site.host.answers[:3]].count(Unrun) == 1
    assert [held[sample].crashes for sample in ran.samples] == [1] * len(ran.samples)
    assert [held[sample].crashes for sample in behind.samples] == [0] * len(behind.samples)
    assert sorted(set(site.seeds())) == list(range(2 * LIMIT))


@pytest.mark.anyio
async def test_one_that_kills_its_engine_fails_and_none_of_those_handed_over_behind_it(site: Site) -> None:
    bad = site.add("slow=0.1 fault:crash")
    good = [site.add("slow=0.1 b", WIDE) for _ in range(3 * LIMIT)]
    async with asyncio.timeout(TIMEOUT_S):
        drawn = await asyncio.gather(bad, *good)
    assert isinstance(drawn[0].image, ImageFault)
    assert drawn[0].image.code == "engine_crashed"
    assert all(isinstance(each.image, Pixels) for each in drawn[1:])
    assert sum(isinstance(each, Failed) for each in site.host.answers) == 2
    assert len(site.seeds()) == len(set(site.seeds())) == 3 * LIMIT, "none of them is drawn twice"


@pytest.mark.anyio
async def test_what_is_withdrawn_after_it_was_handed_over_takes_one_batch_and_no_more(site: Site) -> None:
    site.add("slow=0.3 a")
    site.add("slow=0.3 a")
    gone = [site.add("slow=0.05 b", steps=4) for _ in range(LIMIT)]
    await site.handed_over()
    for image in gone:
        image.cancel()
    after = site.add("c")
    async with asyncio.timeout(TIMEOUT_S):
        assert isinstance((await after).image, Pixels)
    names = [sample for each in site.host.batches for sample in each.samples if sample in (2, 3)]
    assert sorted(names) == [2, 3]
    assert site.batcher.backlog_steps() == 0


@pytest.mark.anyio
async def test_what_was_handed_over_is_finished_by_a_batcher_that_drains(site: Site) -> None:
    first = [site.add("slow=0.3 a") for _ in range(LIMIT)]
    second = [site.add("slow=0.1 b") for _ in range(LIMIT)]
    third = [site.add("slow=0.1 c") for _ in range(LIMIT)]
    await site.handed_over()
    site.batcher.drain()
    async with asyncio.timeout(TIMEOUT_S):
        drawn = await asyncio.gather(*first, *second, *third, return_exceptions=True)
    assert [isinstance(each, ImageResult) for each in drawn] == [True] * 2 * LIMIT + [False] * LIMIT


@pytest.mark.anyio
async def test_the_device_goes_on_while_the_event_loop_is_stuck(site: Site) -> None:
    images = [site.add("a") for _ in range(20 * LIMIT)]
    # Nothing else of the worker comes round: not even what became of the first batch is heard.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(until, lambda: len(site.seeds()) == 20 * LIMIT).result(TIMEOUT_S)
    assert not any(image.done() for image in images)
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*images)
