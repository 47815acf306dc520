"""What goes wrong while batches are handed over costs its own batch at most, and gives nobody the picture of another."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import Pipe
from typing import Any

import pytest
from prometheus_client import REGISTRY

from contracts.engine import Batch, BatchKey, ImageTask, Pixels
from contracts.failures import WorkerFault
from contracts.settings import WorkerSettings
from scheduler.cost import CostModel
from scheduler.recovery import Failure
from tests.worker.test_hand_over import KEY, TIMEOUT_S, WIDE, Site, Watched, batch, begun, until
from tests.worker.test_hand_over import host as host
from tests.worker.test_hand_over import site as site
from worker import device
from worker.active_images import ActiveImages
from worker.engine import __main__ as served
from worker.engine.fake import FakeEngine, _noise
from worker.engine.host import EngineHost
from worker.engine.messages import Answer, Answered, Done, Failed, Order, Ready, Unrun
from worker.images import ImageResult
from worker.reports import report_batch

pytestmark = pytest.mark.slow


class Broken(Exception):
    """Of our own code."""


def breaks_once(real: Callable[..., Any], raised: list[int], *, at: int = 2) -> Callable[..., Any]:
    """Like `real`, but for its call number `at` on the device's thread."""
    calls = itertools.count(1)

    def broken(*given: Any) -> Any:
        if threading.current_thread().name == "device" and next(calls) == at:
            raised.append(at)
            raise Broken
        return real(*given)

    return broken


@pytest.mark.anyio
@pytest.mark.parametrize("part", ["traced", "full", "wait"])
async def test_what_raises_while_a_batch_runs_gives_nobody_the_picture_of_another(
    site: Site, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    raised = list[int]()
    owner: Any = {"traced": device, "full": ActiveImages, "wait": EngineHost}[part]
    monkeypatch.setattr(owner, part, breaks_once(getattr(owner, part), raised))
    images = [site.add("slow=0.03 a", steps=steps) for steps in (1, 2, 1, 1, 2, 1, 1, 1)]
    async with asyncio.timeout(TIMEOUT_S):
        drawn = await asyncio.gather(*images, return_exceptions=True)
        late = await site.add("b")
    assert raised
    # One that was alone in the batch is given up.
    assert sum(isinstance(each, WorkerFault) for each in drawn) <= 1
    for seed, each in enumerate([*drawn, late]):
        if isinstance(each, WorkerFault):
            continue
        assert isinstance(each, ImageResult)
        assert isinstance(each.image, Pixels)
        assert each.image.rgb == _noise(KEY, seed).rgb, "its own picture"
    assert not site.host._sent


def test_an_answer_to_another_batch_loses_the_engine_and_is_no_picture(host: EngineHost) -> None:
    host.send(batch("a"))
    host._sent[0] = replace(host._sent[0], number=7)
    assert isinstance(host.receive(), Failed)
    assert not host.alive


def test_an_engine_that_is_stopped_while_it_is_handed_a_picture_has_hung() -> None:
    host = EngineHost(WorkerSettings(engine="fake", model="fake", batch_timeout_s=0.5))
    host.start()
    try:
        host.send(batch("slow=0.3 a"))
        until(lambda: begun(host) == 1)
        assert host.pid is not None
        os.kill(host.pid, signal.SIGSTOP)
        picture = ImageTask("b", "", 1, init_image=bytes(3_000_000), strength=1.0)
        host.send(Batch(KEY, (1,), {1: picture}))
        first, second = host.receive(), host.receive()
    finally:
        host.kill()
    assert first == Failed(Failure.CRASH, "The engine hung.")
    assert isinstance(second, Unrun)
    assert not host.alive


def test_an_engine_that_is_stopped_in_the_middle_of_an_answer_has_hung(host: EngineHost) -> None:
    # More than a socket holds: the rest would come while it is read.
    tasks = {n: ImageTask("a", "", n) for n in range(4)}
    host.send(Batch(BatchKey("fake", 1024, 1024, guided=False), tuple(tasks), tasks))
    assert host._engine is not None
    while not host._engine.ready(TIMEOUT_S):
        pass
    assert host.pid is not None
    os.kill(host.pid, signal.SIGSTOP)
    assert host.receive() == Failed(Failure.CRASH, "The engine hung.")
    assert not host.alive


def test_an_engine_that_dies_slowly_holds_up_nobody_and_is_replaced(
    host: EngineHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may keep a killed process for seconds, while it gives back the device."""
    engine, woken = host._engine, threading.Event()
    assert engine is not None

    def wake() -> None:
        host.wake()
        woken.set()

    def wait(seconds: float) -> int:
        threading.Thread(target=wake, daemon=True).start()
        assert woken.wait(2.0), "whoever wakes it waits for its death"
        raise subprocess.TimeoutExpired("engine", seconds)

    with monkeypatch.context() as patch:
        patch.setattr(engine._process, "wait", wait)
        host.kill()
    assert not host.alive
    assert engine._process.wait(TIMEOUT_S) == -signal.SIGKILL
    host.start()
    assert isinstance(host.run(batch("a")), Done)


@pytest.mark.anyio
async def test_between_two_batches_nobody_wakes_the_engine_s_wait(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed, real = list[bool](), Watched.receive

    def receive(host: Watched) -> Answer:
        armed.append(site.batcher._device._armed)
        return real(host)

    monkeypatch.setattr(Watched, "receive", receive)
    site.add("slow=0.05 a", steps=2)
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*site.tasks)
        await site.add("b")
    assert armed
    assert not any(armed)


@pytest.mark.anyio
async def test_who_leaves_with_a_batch_that_cannot_be_said_leaves_with_the_next_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, real, unsaid = site.add("slow=0.1 a", steps=50), EngineHost.send, list[Batch]()

    def send(host: EngineHost, batch: Batch) -> None:
        if batch.leaving and not unsaid:
            unsaid.append(batch)
            raise Broken
        real(host, batch)

    monkeypatch.setattr(EngineHost, "send", send)
    async with asyncio.timeout(TIMEOUT_S):
        while not site.host.batches:
            await asyncio.sleep(0.002)
        gone.cancel()
        await asyncio.gather(*(site.add("b", WIDE) for _ in range(2)), return_exceptions=True)
        await site.add("c")
    left = [sample for each in site.host.batches for sample in each.leaving]
    assert len(unsaid) == 1
    assert set(unsaid[0].leaving) <= set(left)


def counted(what: str) -> float:
    return REGISTRY.get_sample_value("darkroom_batches_total", {"model": KEY.model, "outcome": what}) or 0.0


@pytest.mark.anyio
async def test_a_batch_that_breaks_in_our_hands_is_counted_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = list[int]()
    before = [counted("done"), counted("broken")]
    monkeypatch.setattr(CostModel, "ran", breaks_once(CostModel.ran, raised, at=1))
    await asyncio.gather(site.add("a"), return_exceptions=True)
    assert raised
    assert [counted("done"), counted("broken")] == [before[0], before[1] + 1]


@pytest.mark.anyio
async def test_a_batch_that_cannot_be_reported_costs_its_images_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = list[int]()
    monkeypatch.setattr(device, "report_batch", breaks_once(report_batch, raised, at=1))
    async with asyncio.timeout(TIMEOUT_S):
        drawn = await site.add("a")
    assert raised
    assert isinstance(drawn.image, Pixels)


class Unreadable:
    """Pickles well, and raises where it is read."""

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return int, ("none",)


def test_an_order_that_cannot_be_read_costs_the_batch_that_runs_nothing(host: EngineHost) -> None:
    host.send(batch("slow=0.2 a"))
    until(lambda: begun(host) == 1)
    host.send(batch(Unreadable(), first=10))  # type: ignore[arg-type]
    first, second = host.receive(), host.receive()
    assert isinstance(first, Done)
    assert second == Failed(Failure.CRASH, "The engine process died.")


class Unsayable(FakeEngine):
    """What it makes of the prompt "bad" cannot be pickled."""

    def __init__(self, settings: WorkerSettings, name: str) -> None:
        super().__init__(settings, name)
        self.left: list[int] = []

    def advance(self, batch: Batch) -> list[Any]:
        self.left += batch.leaving
        bad = any(task.prompt == "bad" for task in batch.joining.values())
        return [threading.Lock()] if bad else [*super().advance(batch)]


def test_an_answer_that_cannot_be_pickled_is_held_against_its_own_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = WorkerSettings(engine="fake", model="fake")
    engine = Unsayable(settings, "fake")

    def lost(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(served, "build", lambda _: engine)
    # The engine's process is this one.
    monkeypatch.setattr(os, "_exit", lost)
    (ours, theirs), (told, begun) = Pipe(), os.pipe()
    serving = threading.Thread(target=served.serve, args=(theirs, begun, settings), daemon=True)
    serving.start()
    with ours, theirs:
        assert isinstance(ours.recv(), Ready)
        ours.send(Order(1, batch("bad"), ahead=False))
        ours.send(Order(2, batch("b", first=10), ahead=True))
        assert ours.poll(TIMEOUT_S)
        assert ours.recv() == Answered(1, Failed(Failure.FAULT, "TypeError"))
        assert isinstance(ours.recv().answer, Unrun)
        ours.send(Order(3, batch("c", first=20), ahead=False))
        assert isinstance(ours.recv().answer, Done)
        assert engine.left == [0], "it has forgotten whose answer was lost"
        ours.close()
        serving.join(TIMEOUT_S)
        assert not serving.is_alive()
    os.close(told)
    os.close(begun)
