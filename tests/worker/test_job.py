"""The life of a job in a worker: real batcher, real engine process (the fake one), real stores."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client import REGISTRY

from cache.blobs import DirectoryBlobStore
from cache.keys import result_address, tenant_scope
from cache.stores import Stores
from cli.services.redis import RedisServer
from contracts.clock import SystemClock
from contracts.errors import StoreUnavailable
from contracts.ids import new_job_id
from contracts.jobs import Job, JobMessage, JobStatus, NewJob, Preview, Progress
from contracts.requests import GenerationRequest
from contracts.settings import WorkerSettings
from tests.cache.conftest import watching
from tests.publishers import RecordingPublisher
from tests.stores import opened_stores
from tests.worker.receipts import receipt_of
from worker.batcher import Batcher
from worker.bounds import Bounds
from worker.deliveries import Verdict
from worker.encode import NO_ROOM, Encoder
from worker.endings import Endings
from worker.engine.host import EngineHost
from worker.job import JobRunner
from worker.leases import Leases
from worker.patience import Patience
from worker.taker import Taker

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@dataclass(frozen=True)
class Room:
    """A worker without its consumer."""

    stores: Stores
    publisher: RecordingPublisher
    batcher: Batcher
    host: EngineHost
    runner: JobRunner
    taker: Taker

    async def submit(self, prompt: str, ttl_s: float = 60.0, **changes: Any) -> JobMessage:
        request = GenerationRequest(
            model="fake",
            prompt=prompt,
            width=64,
            height=64,
            num_inference_steps=1,
            guidance_scale=0.0,
            seed=1,
        ).model_copy(update=changes)
        key = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
        new = NewJob(id=new_job_id(1.0, key[0]), tenant="public", key=key, request=request, ttl_s=ttl_s)
        return (await self.stores.jobs.submit(new)).job.message()

    async def run(self, *messages: JobMessage) -> list[Verdict]:
        async with asyncio.timeout(60):
            return await asyncio.gather(*(self.taker.attend(receipt_of(message)) for message in messages))

    async def job(self, message: JobMessage) -> Job:
        return await self.stores.jobs.get("public", message.job_id)

    async def failure(self, message: JobMessage) -> str:
        failure = (await self.job(message)).failure
        return "" if failure is None else failure.code


def full_disks() -> float:
    return REGISTRY.get_sample_value("darkroom_blob_store_errors_total", {"cause": "full"}) or 0.0


def address(message: JobMessage) -> str:
    return result_address(message.key, message.request, tenant_scope(message.tenant, shared=False))


@pytest.fixture
async def room(anyio_backend: str, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Room]:
    settings = WorkerSettings(engine="fake", model="fake", max_batch=4, batch_timeout_s=2.0)
    publisher = RecordingPublisher()
    host = EngineHost(settings)
    spec, wake = await asyncio.to_thread(host.start), asyncio.Event()
    batcher, encoder = Batcher(host, settings.max_batch, SystemClock(), room_changed=wake), Encoder()
    bounds = Bounds(spec, settings.max_images_per_job)
    async with opened_stores(redis_server, tmp_path / "stores") as stores:
        leases = Leases(stores.jobs, 9.0)  # seconds: long enough to tell a word from a renewal
        endings, begin = Endings(stores.jobs.end_many), asyncio.create_task
        patience = Patience(SystemClock())
        runner = JobRunner(
            "w", stores, publisher, batcher, encoder, leases, endings, patience, SystemClock(), bounds
        )
        taker = Taker(
            "w", "fake", stores, publisher, runner, batcher, patience, SystemClock(), 16, wake, begin
        )
        work = (batcher.run(), leases.run(), leases.hear(stores.events, "w"), taker.run())
        tasks = [asyncio.create_task(each) for each in work]
        yield Room(stores, publisher, batcher, host, runner, taker)
        runner.drain()
        await batcher.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    encoder.close()


async def test_a_job_becomes_a_picture_and_fills_the_cache(room: Room) -> None:
    message = await room.submit("a", num_images=3, seed=40)
    assert await room.run(message) == [Verdict.ACK]
    job = await room.job(message)
    assert job.status is JobStatus.SUCCEEDED
    assert job.result is not None
    assert [image.seed for image in job.result.images] == [40, 41, 42]
    assert job.result.timings.batch_size == 3
    data = await room.stores.blobs.get(job.result.images[0].name)
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    expected = np.random.default_rng(40).integers(0, 256, (64, 64, 3), np.uint8)
    assert np.array_equal(pixels, expected), "not a bit lost, and red is red"
    assert await room.stores.results.get(address(message)) == job.result


class FullDisk:
    """A directory of pictures on a disk without room, until `free`; `asked` counts who tries to write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: Room, folder: Path) -> None:
        self.folder, self.asked, self.full = folder, 0, True
        store, sync = DirectoryBlobStore(folder, SystemClock()), os.fsync

        def fsync(descriptor: int) -> None:
            self.asked += 1
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        monkeypatch.setattr("cache.blobs.os.fsync", fsync)
        monkeypatch.setattr(room.stores.blobs, "put", store.put)

    @property
    def pictures(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    async def met(self) -> None:
        async with asyncio.timeout(20):
            while not self.asked:
                await asyncio.sleep(0.01)


async def test_a_job_whose_pictures_find_no_room_in_time_says_so(
    room: Room, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk, before = FullDisk(monkeypatch, room, tmp_path), full_disks()
    message = await room.submit("a", ttl_s=5.0)
    assert await room.run(message) == [Verdict.ACK]
    job = await room.job(message)
    assert (job.status, await room.failure(message)) == (JobStatus.FAILED, "blob_store_full")
    assert job.failure is not None
    assert job.failure.retryable
    assert "no room" in job.failure.message
    assert job.finished_at is not None
    assert job.finished_at < job.deadline
    assert full_disks() - before == disk.asked > 1
    assert disk.pictures == []


async def test_a_job_waits_for_room_while_it_has_time(
    room: Room, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = FullDisk(monkeypatch, room, tmp_path)
    message = await room.submit("a")
    delivery = asyncio.create_task(room.run(message))
    await disk.met()
    disk.full = False
    assert await delivery == [Verdict.ACK]
    assert (await room.job(message)).status is JobStatus.SUCCEEDED
    assert len(disk.pictures) == 1


async def test_a_job_that_has_ended_takes_no_room(
    room: Room, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = FullDisk(monkeypatch, room, tmp_path)
    message = await room.submit("a")
    delivery = asyncio.create_task(room.run(message))
    await disk.met()
    await room.stores.jobs.cancel("public", message.job_id)
    assert await delivery == [Verdict.ACK]
    async with asyncio.timeout(20):
        while room.taker._running:
            await asyncio.sleep(0.01)
    disk.full = False
    later = await room.submit("b")
    assert await room.run(later) == [Verdict.ACK]
    result = (await room.job(later)).result
    assert result is not None
    assert [path.name for path in disk.pictures] == [result.images[0].name]


async def test_a_prompt_that_a_jpeg_cannot_hold_still_becomes_a_picture(room: Room) -> None:
    """The API refuses such a request, but its limit leaves out the names of model and adapter, and another version may not have it."""
    message = await room.submit("x" * 40_000, output_format="jpeg", embed_metadata=True, num_images=2)
    assert await room.run(message) == [Verdict.ACK]
    job = await room.job(message)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    assert job.result is not None
    assert job.result.warnings == (NO_ROOM,)


async def test_what_was_asked_of_another_revision_is_drawn_and_not_cached(room: Room) -> None:
    bounds = room.runner.bounds
    room.runner.bounds = replace(bounds, spec=bounds.spec.model_copy(update={"revision": "new"}))
    message = await room.submit("a", model_revision="old")
    assert await room.run(message) == [Verdict.ACK]
    assert (await room.job(message)).status is JobStatus.SUCCEEDED
    assert await room.stores.results.get(address(message)) is None


async def test_a_job_whose_engine_is_gone_for_good_is_given_back_at_once(room: Room) -> None:
    message = await room.submit("slow=1 a")
    delivery = asyncio.create_task(room.taker.attend(receipt_of(message)))
    async with asyncio.timeout(10):
        while not room.batcher.backlog_steps():
            await asyncio.sleep(0.01)
        for image in list(room.batcher._hand.images):
            image.drawn.cancel()
        while (await room.job(message)).attempt < 2:
            await asyncio.sleep(0.01)  # long before its lease of ten seconds would lapse
        assert await delivery is Verdict.ACK


async def test_pictures_that_find_no_place_bound_what_is_taken(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, full = room.stores.blobs.put, asyncio.Event()
    full.set()

    async def sometimes(data: bytes, extension: str) -> str:
        if full.is_set():
            raise StoreUnavailable("no place left")
        return await put(data, extension)

    monkeypatch.setattr(room.stores.blobs, "put", sometimes)
    messages = [await room.submit("a", seed=seed) for seed in range(100)]
    kept = 4 * 16
    async with asyncio.timeout(30):
        while len(room.taker._running) < kept - 4:
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)
    assert len(room.taker._running) <= kept
    full.clear()
    assert set(await room.run(*messages)) == {Verdict.ACK}


async def test_jobs_share_batches_by_key_and_none_is_larger_than_allowed(room: Room) -> None:
    slow = await room.submit("slow=0.3 first")
    messages = [await room.submit("x", seed=i, width=64 if i % 3 else 128) for i in range(12)]
    assert set(await room.run(slow, *messages)) == {Verdict.ACK}
    sizes = []
    for message in messages:
        result = (await room.job(message)).result
        assert result is not None
        assert result.images[0].width == message.request.width
        sizes.append(result.timings.batch_size)
    assert max(sizes) == 4


async def test_one_bad_image_fails_alone(room: Room) -> None:
    hold = await room.submit("slow=0.3 hold")
    prompts = ["a", "fault:raise", "b", "fault:nan"]
    messages = [await room.submit(prompt) for prompt in prompts]
    assert set(await room.run(hold, *messages)) == {Verdict.ACK}
    assert [await room.failure(message) for message in messages] == ["", "engine_fault", "", "invalid_output"]
    assert await room.stores.results.get(address(messages[1])) is None, "a failure is never cached"


async def test_a_batch_that_does_not_fit_is_split(room: Room) -> None:
    hold = await room.submit("slow=0.3 hold")
    messages = [await room.submit("fault:oom>=3", seed=i) for i in range(4)]
    await room.run(hold, *messages)
    assert [await room.failure(message) for message in messages] == [""] * 4
    alone = await room.submit("fault:oom>=1")
    await room.run(alone)
    assert await room.failure(alone) == "out_of_memory"


@pytest.mark.parametrize("fault", ["fault:crash", "fault:hang"])
async def test_a_job_that_kills_its_engine_fails_and_the_others_live(room: Room, fault: str) -> None:
    hold = await room.submit("slow=0.3 hold")
    messages = [await room.submit(prompt) for prompt in ("a", fault, "b")]
    before = room.host.pid
    assert set(await room.run(hold, *messages)) == {Verdict.ACK}
    assert [await room.failure(message) for message in messages] == ["", "engine_crashed", ""]
    failed = await room.job(messages[1])
    assert failed.failure is not None
    assert failed.failure.retryable
    assert room.host.pid != before


async def test_a_canceled_job_is_not_drawn(room: Room) -> None:
    hold = await room.submit("slow=0.5 hold")
    message = await room.submit("a")
    running = asyncio.create_task(room.run(hold, message))
    await asyncio.sleep(0.1)
    await room.stores.jobs.cancel("public", message.job_id)
    assert await running == [Verdict.ACK, Verdict.ACK]
    assert (await room.job(message)).status is JobStatus.CANCELED
    assert room.batcher.steps_per_s() > 0


async def test_a_second_delivery_waits_for_the_first_and_changes_nothing(room: Room) -> None:
    message = await room.submit("slow=0.3 a")
    assert await room.run(message, message) == [Verdict.ACK, Verdict.ACK]
    assert (await room.job(message)).attempt == 1
    assert await room.run(message) == [Verdict.ACK], "and one that comes after the end is just acked"


async def test_a_draining_worker_finishes_its_batch_and_gives_the_rest_back(room: Room) -> None:
    running = await room.submit("slow=0.5 running")
    waiting = [await room.submit("w", seed=i, width=128) for i in range(3)]
    all_of_them = asyncio.create_task(room.run(running, *waiting))
    await asyncio.sleep(0.2)
    room.runner.drain()
    assert await all_of_them == [Verdict.ACK, *[Verdict.REQUEUE] * 3]
    assert (await room.job(running)).status is JobStatus.SUCCEEDED
    assert {(await room.job(message)).status for message in waiting} == {JobStatus.QUEUED}
    assert await room.run(waiting[0]) == [Verdict.REQUEUE], "a message that comes now goes straight back"


async def test_a_store_that_is_away_for_a_while_costs_nothing(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    for store, name in (
        (room.stores.jobs, "take"),
        (room.stores.jobs, "succeed"),
        (room.stores.blobs, "put"),
    ):
        real, failures = getattr(store, name), iter([True, True, False])

        async def flaky(*given: Any, real: Any = real, failures: Any = failures) -> Any:
            if next(failures, False):
                raise StoreUnavailable("away")
            return await real(*given)

        monkeypatch.setattr(store, name, flaky)
    message = await room.submit("a")
    assert await room.run(message) == [Verdict.ACK]
    assert (await room.job(message)).status is JobStatus.SUCCEEDED


async def test_followers_of_a_failed_job_are_published(room: Room) -> None:
    message = await room.submit("fault:raise")
    job = await room.job(message)
    follower = NewJob(
        id=new_job_id(2.0, job.key[0]), tenant="public", key=job.key, request=job.request, ttl_s=60.0
    )
    await room.stores.jobs.submit(follower)
    await room.run(message)
    assert [each.job_id for each in room.publisher.published] == [follower.id]


async def test_a_cache_that_is_away_does_not_fail_the_job(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(room.stores.results, "put", away)
    message = await room.submit("a")
    assert await room.run(message) == [Verdict.ACK]
    assert (await room.job(message)).status is JobStatus.SUCCEEDED


async def test_jobs_of_different_lengths_share_passes_and_tell_how_far_they_are(room: Room) -> None:
    hold = await room.submit("slow=0.2 hold")
    long = await room.submit("slow=0.05 long", num_inference_steps=12)
    short = await room.submit("slow=0.05 short", num_inference_steps=1)
    told = []

    async def listen() -> None:
        async with watching(room.stores.events, long.job_id) as events:
            async for event in events:
                told.append(event)

    listening = asyncio.create_task(listen())
    assert set(await room.run(hold, long, short)) == {Verdict.ACK}
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    steps = [event.step for event in told if isinstance(event, Progress)]
    assert steps == sorted(set(steps))
    assert len(steps) >= 3, "the latest word, whenever the one before has been said"
    results = [(await room.job(message)).result for message in (long, short)]
    assert all(result is not None and result.timings.batch_size >= 2 for result in results)


async def test_the_first_picture_of_a_job_is_shown_in_the_making(room: Room) -> None:
    message = await room.submit("slow=0.2 long", num_inference_steps=4, num_images=2, previews=2)
    shown: list[Preview] = []
    running = asyncio.create_task(room.run(message))
    async with watching(room.stores.events, message.job_id) as events:
        async for event in events:
            if isinstance(event, Preview):
                shown.append(event)
            elif event.terminal:
                break
    assert await running == [Verdict.ACK]
    assert [each.index for each in shown] == [0, 1]
    result = (await room.job(message)).result
    assert result is not None
    names = {each.name for each in shown} | {each.name for each in result.images}
    assert len(names) == 4
    for name in names:
        assert (await room.stores.blobs.get(name)).startswith(b"\x89PNG")


async def test_a_preview_that_cannot_be_stored_is_left_out(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, calls = room.stores.blobs.put, []

    async def once_away(data: bytes, kind: str) -> str:
        calls.append(kind)
        if len(calls) == 1:
            raise StoreUnavailable("It is away.")
        return await put(data, kind)

    monkeypatch.setattr(room.stores.blobs, "put", once_away)
    message = await room.submit("slow=0.2 long", num_inference_steps=2, previews=1)
    assert await room.run(message) == [Verdict.ACK]
    assert (await room.job(message)).status is JobStatus.SUCCEEDED
    assert len(calls) == 2, "the preview and the picture"


async def test_a_cancellation_takes_effect_at_the_next_step(room: Room) -> None:
    message = await room.submit("slow=0.5 long", num_inference_steps=50)
    running = asyncio.create_task(room.run(message))
    async with watching(room.stores.events, message.job_id) as events:
        async for event in events:
            if isinstance(event, Progress):
                break
    begun = time.monotonic()
    await room.stores.jobs.cancel("public", message.job_id)
    assert await running == [Verdict.ACK]
    assert time.monotonic() - begun < 6, "neither after fifty steps of 0.5 s nor at the next renewal"
    assert (await room.job(message)).status is JobStatus.CANCELED


async def test_what_can_no_longer_be_done_in_time_expires_unrun(room: Room) -> None:
    await room.run(await room.submit("slow=0.3 learn", seed=99))
    await room.run(*[await room.submit("slow=0.3 learn", seed=i) for i in range(8)])
    late = await room.submit("slow=0.3 late", ttl_s=0.25)
    assert await room.run(late) == [Verdict.ACK]
    expired = await room.job(late)
    assert expired.status is JobStatus.EXPIRED
    assert expired.finished_at is not None
    assert expired.finished_at < expired.deadline, "a pass takes longer than it had: it was not begun"


@pytest.mark.parametrize(
    "is_input", [True, False]
)  # False: as a job names it that was queued before inputs had a folder
async def test_a_job_that_starts_from_a_picture_takes_it_from_the_store(room: Room, is_input: bool) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 90, 90)).save(file, "PNG")
    name = await room.stores.blobs.put(file.getvalue(), "png", is_input=is_input)
    message = await room.submit("a", init_image=name, strength=0.5, num_inference_steps=4)
    assert await room.run(message) == [Verdict.ACK]
    assert (await room.job(message)).status is JobStatus.SUCCEEDED


async def test_a_picture_to_start_from_that_is_gone_fails_its_job_alone(room: Room) -> None:
    lost = await room.submit("a", init_image=f"{'0' * 64}.png", strength=1.0)
    other = await room.submit("b")
    assert await room.run(lost, other) == [Verdict.ACK, Verdict.ACK]
    assert await room.failure(lost) == "init_image_lost"
    assert (await room.job(other)).status is JobStatus.SUCCEEDED
