"""What a job tells while it runs: its steps and its previews."""

from __future__ import annotations

import asyncio

import pytest

from contracts.errors import StoreUnavailable
from contracts.jobs import JobStatus, Preview, Progress
from tests.store.conftest import watching
from tests.worker.conftest import Room
from worker.deliveries import Verdict

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_jobs_of_different_lengths_share_batches_and_tell_how_far_they_are(room: Room) -> None:
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

    async def once_away(data: bytes, kind: str, **place: bool) -> str:
        calls.append(kind)
        if len(calls) == 1:
            raise StoreUnavailable("It is away.")
        return await put(data, kind, **place)

    monkeypatch.setattr(room.stores.blobs, "put", once_away)
    message = await room.submit("slow=0.2 long", num_inference_steps=2, previews=1)
    assert await room.run(message) == [Verdict.ACK]
    assert (await room.job(message)).status is JobStatus.SUCCEEDED
    assert len(calls) == 2, "the preview and the picture"
