"""What a worker owes the search index of the images that it draws: real batcher, real engine process (the fake one), real stores."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace

import numpy as np
import pytest
import redis
from PIL import Image

from cli.services.redis import RedisServer
from contracts.engine import Pixels
from contracts.jobs import JobStatus
from contracts.pictures import SHARED, PictureRecord
from contracts.requests import Lora
from telemetry import metrics
from tests.worker import policies
from tests.worker.conftest import Room
from worker.deliveries import Verdict
from worker.engine.fake import CLIP, hashed
from worker.pictures import picture_records

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

EMBEDDING = pytest.mark.parametrize("room", [{"clip": "models/emoji-clip"}], indirect=True)


async def records(room: Room) -> list[PictureRecord]:
    store = room.stores.pictures
    taken = [job_id for shard in store.shards for job_id in await store.take(shard, 100, 60.0)]
    return sorted(await store.read(taken), key=lambda record: record.seed or 0)


def counted(outcome: str) -> float:
    return float(metrics.EMBEDDINGS.labels(outcome)._value.get())


@EMBEDDING
async def test_each_image_of_a_job_is_recorded_with_its_embedding(room: Room) -> None:
    made = counted("made")
    message = await room.submit("a kite", num_images=3, seed=40)
    assert await room.run(message) == [Verdict.ACK]
    job = await room.job(message)
    assert job.result is not None
    assert job.finished_at is not None
    found = await records(room)
    assert len(found) == 3
    for record, image in zip(found, job.result.images, strict=True):
        assert (record.scope, record.name, record.seed) == ("public", image.name, image.seed)
        assert (record.prompt, record.model, record.lora) == ("a kite", "fake", "")
        assert (record.width, record.height, record.job_id) == (64, 64, job.id)
        assert (record.source, record.created_at) == ("generated", job.finished_at)
        assert record.expires_at - record.created_at == 259_200.0
        pixels = np.asarray(Image.open(io.BytesIO(await room.stores.blobs.get(image.name))))
        assert record.embedding is not None
        assert record.embedding.model == CLIP
        assert record.embedding.raw() == hashed(pixels.tobytes()), "of the image that is served"
    assert counted("made") - made == 3


async def test_without_a_clip_nothing_is_recorded(room: Room) -> None:
    message = await room.submit("a kite")
    assert await room.run(message) == [Verdict.ACK]
    assert await room.stores.pictures.owed() == 0
    assert await room.stores.pictures.scan() == ("", [])


@EMBEDDING
async def test_neither_a_failed_job_nor_a_preview_is_recorded(room: Room) -> None:
    failing = await room.submit("fault:nan")
    shown = await room.submit("a kite", num_inference_steps=4, previews=2)
    assert await room.run(failing, shown) == [Verdict.ACK] * 2
    assert (await room.job(failing)).status is JobStatus.FAILED
    (record,) = await records(room)
    job = await room.job(shown)
    assert job.result is not None
    assert record.name == job.result.images[0].name


@EMBEDDING
async def test_a_job_that_the_store_has_lost_is_recorded_with_its_images(
    room: Room, redis_server: RedisServer
) -> None:
    """Redis is wiped while the job is drawn. The record is rebuilt from the message, and owes its images."""
    message = await room.submit("slow=1 a kite")
    running = asyncio.create_task(room.run(message))
    async with asyncio.timeout(30):
        while (await room.job(message)).status is not JobStatus.RUNNING:
            await asyncio.sleep(0.01)
    with redis.Redis(port=redis_server.port) as client:
        client.flushall()
    assert await running == [Verdict.ACK]
    job = await room.job(message)
    assert job.status is JobStatus.SUCCEEDED
    (record,) = await records(room)
    assert record.job_id == job.id


async def test_records_say_what_the_cache_shares_and_leave_out_what_failed(room: Room) -> None:
    message = await room.submit("a kite", num_images=2)
    assert await room.run(message) == [Verdict.ACK]
    result = (await room.job(message)).result
    assert result is not None
    request = message.request.model_copy(update={"lora": Lora(name="ink", scale=0.5)})
    message = message.model_copy(update={"request": request})
    spec = room.runner.bounds.spec.model_copy(update={"clip": "c@1"})
    images = [Pixels(64, 64, b"", embedding=b"\0" * 8), Pixels(64, 64, b"")]
    names = [image.name for image in result.images]
    (record,) = picture_records(message, result.images, names, images, spec, SHARED, 10.0, 5.0)
    assert (record.scope, record.lora, record.name) == ("", "ink", result.images[0].name)
    assert (record.created_at, record.expires_at) == (10.0, 15.0)
    assert record.embedding is not None
    assert (record.embedding.model, record.embedding.raw()) == ("c@1", b"\0" * 8)


@pytest.mark.parametrize(
    "room", [{"clip": "models/emoji-clip", "share_cache_between_tenants": True}], indirect=True
)
async def test_an_image_that_is_not_cached_is_not_shared(room: Room) -> None:
    cached = await room.submit("a kite", seed=1)
    private = await room.submit("a secret", seed=2, cache="off")
    assert await room.run(cached, private) == [Verdict.ACK, Verdict.ACK]
    assert [record.scope for record in await records(room)] == [SHARED, "public"]


@pytest.mark.parametrize(
    "room",
    [{"clip": "models/emoji-clip", "share_cache_between_tenants": True, "policy": True}],
    indirect=True,
)
async def test_a_tenant_with_rules_of_its_own_shares_no_image(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its rules let pass, the rules for all might hold."""
    live = room.runner._verdicts._live  # type: ignore[union-attr]
    own = live.now.policy.model_copy(update={"tenants": {"public": {}}})
    monkeypatch.setattr(live, "_in_force", replace(live.now, policy=own))
    assert await room.run(await room.submit("a kite", seed=policies.SHOWN)) == [Verdict.ACK]
    assert [record.scope for record in await records(room)] == ["public"]


@pytest.mark.parametrize(
    "room",
    [{"clip": "models/emoji-clip", "share_cache_between_tenants": True, "policy": True}],
    indirect=True,
)
async def test_an_image_beside_a_held_one_is_not_shared(room: Room) -> None:
    """Their result is not cached, so nobody else would find it."""
    message = await room.submit("a kite", seed=policies.HELD, num_images=3)
    assert await room.run(message) == [Verdict.ACK]
    result = (await room.job(message)).result
    assert result is not None
    assert [image.shown for image in result.images] == [False, False, True], "held, blocked, tagged"
    assert [record.scope for record in await records(room)] == ["public"]
