"""The life of a job in a worker: real batcher, real engine process (the fake one), real stores."""

from __future__ import annotations

import asyncio
import io
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from contracts.ids import new_job_id
from contracts.jobs import JobStatus, NewJob, Progress
from tests.store.conftest import watching
from tests.worker.conftest import Room, address
from worker.deliveries import Verdict
from worker.encode import NO_ROOM

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


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


async def test_followers_of_a_failed_job_are_published(room: Room) -> None:
    message = await room.submit("fault:raise")
    job = await room.job(message)
    follower = NewJob(
        id=new_job_id(2.0, job.key[0]), tenant="public", key=job.key, request=job.request, ttl_s=60.0
    )
    await room.stores.jobs.submit(follower)
    await room.run(message)
    assert [each.job_id for each in room.publisher.published] == [follower.id]


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
    assert expired.finished_at < expired.deadline, "a batch takes longer than it had: it was not begun"


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
