"""What a worker takes, and when: no more than one batch ahead, and that only as the present batch ends."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Reject

from cli.services.redis import RedisServer
from contracts.documents import SCHEMA
from contracts.engine import Batch, BatchKey, ImageTask
from contracts.ids import new_job_id
from contracts.jobs import Envelope, JobFailure, JobMessage, NewJob
from contracts.models import ModelSpec
from contracts.requests import GenerationRequest
from contracts.settings import WorkerSettings
from runtime.clock import ManualClock
from scheduler.cost import CostModel
from store.stores import Stores
from tests.publishers import RecordingPublisher
from tests.stores import opened_stores
from tests.worker.hosts import HostHere
from tests.worker.receipts import receipt_of, receipt_with
from worker.batcher import Batcher
from worker.bounds import Bounds
from worker.deliveries import Verdict
from worker.encode import Encoder
from worker.end_batcher import EndBatcher
from worker.engine.fake import FakeEngine
from worker.engine.messages import Done, Failed
from worker.images import ScheduleKey
from worker.job import JobRunner
from worker.job_fetcher import JobFetcher
from worker.leases import Leases
from worker.receipt import Receipt
from worker.retrier import Retrier

pytestmark = pytest.mark.anyio

LIMIT = 4
BATCH_S = 1.0
KEY = BatchKey("fake", 64, 64, guided=False)
SOON_S = 5.0
"""What does not happen within it does not happen."""


@dataclass
class GatedHost(HostHere):
    """An engine in this process whose batches end when the test says so. `batches` hears the prompts of each as it begins."""

    settings: WorkerSettings
    clock: ManualClock
    loop: asyncio.AbstractEventLoop
    batches: asyncio.Queue[list[str]] = field(default_factory=asyncio.Queue)
    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ended: bool = False

    def start(self) -> ModelSpec:
        self.start_here()
        self.engine = FakeEngine(self.settings, "fake")
        return self.engine.load()

    def kill(self) -> None:
        self.ended = True
        self.gate.release()

    def run_here(self, batch: Batch) -> Done | Failed:
        prompts = [task.prompt for task in batch.joining.values()]
        if not self.ended:
            self.loop.call_soon_threadsafe(self.batches.put_nowait, prompts)
            self.gate.acquire()
        return Done(self.engine.advance(batch), BATCH_S)


@dataclass
class Room:
    """A worker without its consumer, on a clock that the test drives."""

    settings: WorkerSettings
    clock: ManualClock
    stores: Stores
    host: GatedHost
    batcher: Batcher
    runner: JobRunner
    fetcher: JobFetcher
    wake: asyncio.Event
    submitted: int = 0

    async def submit(self, tenant: str, prompt: str, images: int = 1) -> None:
        self.submitted += 1
        request = GenerationRequest(
            model="fake",
            prompt=prompt,
            width=64,
            height=64,
            num_inference_steps=1,
            guidance_scale=0.0,
            seed=self.submitted,
            num_images=images,
        )
        key = f"{self.submitted:064x}"
        new = NewJob(
            id=new_job_id(float(self.submitted), key[0]),
            tenant=tenant,
            key=key,
            request=request,
            ttl_s=3600.0,
            cost=float(images),
        )
        await self.stores.jobs.submit(new)


@pytest.fixture
async def room(anyio_backend: str, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Room]:
    settings = WorkerSettings(engine="fake", model="fake", max_batch=LIMIT)
    clock = ManualClock()
    publisher, encoder = RecordingPublisher(), Encoder()
    host = GatedHost(settings, clock, asyncio.get_running_loop())
    cost, wake = CostModel(), asyncio.Event()
    for images in range(1, LIMIT + 1):
        cost.ran(KEY, images, BATCH_S)
    batcher = Batcher(host, LIMIT, clock, cost, wake)
    bounds = Bounds(host.start(), settings.max_images_per_job)
    async with opened_stores(redis_server, tmp_path) as stores:
        leases = Leases(stores.jobs, settings.heartbeat_s)
        endings, begin = EndBatcher(stores.jobs.end_many), asyncio.create_task
        retrier = Retrier(clock)
        runner = JobRunner("w", stores, publisher, batcher, encoder, leases, endings, retrier, clock, bounds)
        fetcher = JobFetcher(
            "w", "fake", stores, publisher, runner, batcher, retrier, clock, 2 * LIMIT, wake, begin
        )
        yield Room(settings, clock, stores, host, batcher, runner, fetcher, wake)
        runner.drain()
        await batcher.stop()
        await fetcher.finish()
    encoder.close()


async def test_what_has_just_been_taken_fills_its_places_at_once(room: Room) -> None:
    for number in range(3 * LIMIT):
        await room.submit("greedy", f"greedy {number}")
    assert await room.fetcher._take()
    assert not await room.fetcher._take(), "one batch ahead, and not a second one before the first is in hand"
    await asyncio.sleep(0)
    assert room.batcher.room() == 0
    assert (await room.stores.jobs.waiting("fake"))[0] == 2 * LIMIT


async def test_places_of_a_job_that_never_comes_to_the_batcher_are_free_again(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> bool:
        raise RuntimeError("before it has brought anything")

    monkeypatch.setattr(room.runner, "run", broken)
    await room.submit("a", "a", images=LIMIT)
    await room.fetcher._take()
    await room.fetcher.finish()
    await asyncio.sleep(0)
    monkeypatch.undo()
    assert (await room.stores.jobs.waiting("fake"))[0] == 1, "it was given back"
    await room.fetcher._take()
    assert (await room.stores.jobs.waiting("fake"))[0] == 0, "and there is room for it"


async def test_a_job_that_cannot_be_given_back_breaks_nothing_else(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> bool:
        raise RuntimeError("of our own code")

    monkeypatch.setattr(room.runner, "run", broken)
    monkeypatch.setattr(room.stores.jobs, "release", broken)
    await room.submit("a", "a")
    await room.fetcher._take()
    (job,) = room.fetcher.running_jobs()
    assert await job is False


async def test_a_newcomer_is_in_the_next_batch_however_much_another_has_queued(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = asyncio.Event()
    add = room.batcher.add

    def watched(*given: Any) -> Any:
        if given[1].prompt.startswith("modest"):
            came.set()
        return add(*given)

    monkeypatch.setattr(room.batcher, "add", watched)
    for number in range(20 * LIMIT):
        await room.submit("greedy", f"greedy {number}")
    running = [asyncio.create_task(room.batcher.run()), asyncio.create_task(room.fetcher.run())]
    async with asyncio.timeout(SOON_S):
        await room.host.batches.get()
        for number in range(8):
            # While a batch runs, and then it is almost over.
            await room.submit("modest", f"modest {number}")
            room.clock.advance(0.95 * BATCH_S)
            room.wake.set()
            await came.wait()
            came.clear()
            room.clock.advance(0.05 * BATCH_S)
            room.host.gate.release()
            assert f"modest {number}" in await room.host.batches.get()
    room.runner.drain()
    room.host.kill()
    await asyncio.gather(*running)


async def test_a_newcomer_is_taken_when_all_that_the_broker_gave_runs(room: Room) -> None:
    async with asyncio.timeout(SOON_S):
        held = []
        for number in range(2 * LIMIT):
            await room.submit("greedy", f"greedy {number}")
        for job in (await room.stores.jobs.take("fake", "w", 2 * LIMIT)).jobs:
            held.append(asyncio.create_task(room.fetcher.hold_delivery(receipt_of(job.message))))
            room.fetcher._running[job.message.job_id] = asyncio.create_task(asyncio.sleep(0, result=True))
        await asyncio.sleep(0)
        assert len(room.fetcher._deliveries.job_ids) == 2 * LIMIT
        await room.submit("modest", "modest")
        assert room.fetcher._store_may_have_jobs(), "the broker keeps its message back"
        for each in held[1:]:
            each.cancel()
        await asyncio.gather(*held[1:], return_exceptions=True)
        assert not room.fetcher._store_may_have_jobs(), "all that is known of runs here"
        held[0].cancel()
        room.fetcher._running.clear()


async def test_an_image_on_its_last_step_from_a_picture_does_not_lead_the_next_batch(room: Room) -> None:
    """Half the steps of its schedule are taken: the second is the last."""
    start = ImageTask("start", "", 1, 4, 0.0, bytes(64 * 64 * 3), 0.5)
    wide = BatchKey("fake", 96, 64, guided=False)
    images = [room.batcher.add(KEY, start, ScheduleKey(0.0, math.inf))]
    running = asyncio.create_task(room.batcher.run())
    async with asyncio.timeout(SOON_S):
        await room.host.batches.get()
        room.host.gate.release()
        await room.host.batches.get()
    images += [room.batcher.add(wide, ImageTask("wide", "", n), ScheduleKey(1.0, math.inf)) for n in range(2)]
    assert room.batcher.room() == LIMIT - 2, "the two that wait lead it"
    for image in images:
        image.cancel()
    room.host.kill()
    room.runner.drain()
    await running


async def test_a_delivery_for_a_newer_worker_is_held_until_that_has_ended_the_job(room: Room) -> None:
    await room.submit("a", "a")
    (taken,) = (await room.stores.jobs.take("fake", "newer", 1)).jobs
    holding = asyncio.create_task(room.fetcher.hold_delivery(for_a_newer(taken.message.job_id)))
    await asyncio.sleep(0)
    assert not holding.done()
    failure = JobFailure(code="engine_fault", message="it broke")
    assert (await room.stores.jobs.fail(taken.lease, failure)).applied
    async with asyncio.timeout(SOON_S):
        assert await holding is Verdict.ACK
    async with asyncio.timeout(SOON_S):
        lost = await room.fetcher.hold_delivery(for_a_newer(new_job_id(0.0, "0")))
    assert lost is Verdict.REQUEUE, "only a newer worker can write its record anew"


def for_a_newer(job_id: str) -> Receipt:
    return receipt_with(job_id, {"job_id": job_id, "min_schema": SCHEMA + 1})


async def test_the_delivery_of_a_job_that_has_ended_here_is_acked_as_it_comes_and_not_read(
    room: Room,
) -> None:
    """Deliveries lag behind the store where a worker is fast: each would else be held until it is looked at, and the broker's queue grow."""
    async with asyncio.timeout(SOON_S):
        working = [asyncio.create_task(each) for each in (room.fetcher.run(), room.batcher.run())]
        await room.submit("a", "a")
        await room.host.batches.get()
        (job_id,) = room.fetcher._running
        unreadable = receipt_with(job_id, "no job")
        assert not room.fetcher.has_ended(job_id)
        held = asyncio.create_task(room.fetcher.hold_delivery(unreadable))
        room.host.gate.release()
        assert await held is Verdict.ACK, "it runs here: nobody had to read its message"
        assert room.fetcher.has_ended(job_id)
        room.stores.jobs.claim = None  # type: ignore[assignment, method-assign]
        assert await room.fetcher.hold_delivery(unreadable) is Verdict.ACK, "nor ask the store"
    room.runner.drain()
    room.host.kill()
    await asyncio.gather(*working)


async def test_a_delivery_that_is_no_job_is_refused_once_its_job_is_asked_after(room: Room) -> None:
    async with asyncio.timeout(SOON_S):
        with pytest.raises(Reject) as met:
            await room.fetcher.hold_delivery(receipt_with("nobody knows it", {"job_id": 7}))
    assert not met.value.requeue


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, JobMessage),
        ({"hue": 0.5}, JobMessage),
        ({"min_schema": SCHEMA + 1}, Envelope),
        ({"min_schema": SCHEMA + 1, "request": 7}, Envelope),
        ({"request": 7}, None),
        ({"min_schema": SCHEMA + 1, "job_id": None}, None),
        ({"job_id": "another"}, None),
    ],
)
async def test_a_message_says_who_may_act_on_it(
    room: Room, change: dict[str, Any], found: type | None
) -> None:
    await room.submit("a", "a")
    (taken,) = (await room.stores.jobs.take("fake", "w", 1)).jobs
    receipt = receipt_with(taken.message.job_id, {**taken.message.model_dump(mode="json"), **change})
    if found is None:
        with pytest.raises(Reject) as met:
            receipt.read()
        assert not met.value.requeue
    else:
        assert type(receipt.read()) is found


async def test_a_delivery_whose_headers_name_no_job_is_refused_at_once() -> None:
    for nothing in (None, 7, ""):
        with pytest.raises(Reject) as met:
            receipt_with(nothing, {})
        assert not met.value.requeue
