"""Documents of other versions in Redis: what has more fields is read, what cannot be read harms nobody else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from backends.redis_client import connect
from cli.services.redis import RedisServer
from contracts.documents import SCHEMA
from contracts.errors import RecordUnreadable
from contracts.jobs import JobStatus
from contracts.models import ModelSpec, WorkerInfo
from contracts.settings import BackendSettings
from store.api_keys import RECORDS
from store.jobs import RedisJobStore
from store.key_names import Layout
from store.model_directory import PREFIX as MODELS
from store.stores import Stores, open_stores
from telemetry import metrics
from tests.store.made import KEY, keys, led, new, result, submitted, taken
from tests.store.test_api_keys import key

pytestmark = pytest.mark.anyio

MORE = {"hue": {"degrees": 0.5}}
SPEC = ModelSpec(
    name="m",
    revision="r",
    dtype="float32",
    default_width=64,
    default_height=64,
    size_multiple=8,
    min_size=64,
    max_size=96,
    max_pixels=9216,
    default_steps=1,
    max_steps=4,
    default_guidance_scale=0.0,
    max_guidance_scale=20.0,
    max_prompt_tokens=77,
    max_batch=8,
)
WORKER = WorkerInfo(id="w", model="m", started_at=1.0)


@pytest.fixture
async def stores(anyio_backend: str, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Stores]:
    client = connect(redis_server.url, 2.0)
    await client.flushall()
    await client.aclose()
    opened = open_stores(BackendSettings(redis_url=redis_server.url, blob_dir=tmp_path, job_retention_s=1000))
    yield opened
    await opened.close()


LAYOUT = Layout(1)


async def rewrite(stores: Stores, name: str, entry: str, change: Callable[[Any], Any]) -> None:
    """Changes a JSON document in a hash, as another version would have written it."""
    jobs = stores.jobs
    assert isinstance(jobs, RedisJobStore)
    stored = await jobs._client.hget(name, entry)
    assert stored is not None
    await jobs._client.hset(name, entry, json.dumps(change(json.loads(stored)), separators=(",", ":")))


def with_more(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, **MORE}


def for_the_next(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "min_schema": SCHEMA + 1}


def of_another_shape(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "min_schema": SCHEMA + 1, "prompt": {"text": 1}, "dtype": 7}


def unreadable(kind: str) -> float:
    return float(metrics.RECORDS_UNREADABLE.labels(kind)._value.get())


async def test_a_job_with_more_fields_is_read_taken_and_passed_on_whole(stores: Stores) -> None:
    (job_id,) = await submitted(stores.jobs, [KEY], "public")
    await rewrite(stores, LAYOUT.job_key(job_id), "request", with_more)
    job = await stores.jobs.get("public", job_id)
    assert job.request.prompt == "Ein Apfel ☂"
    assert json.loads(job.message().model_dump_json())["request"]["hue"] == MORE["hue"]
    (mine,) = await taken(stores.jobs, 8)
    assert json.loads(mine.message.model_dump_json())["request"]["hue"] == MORE["hue"]
    assert (await stores.jobs.succeed(mine.lease, result())).applied


async def test_a_job_that_needs_the_next_version_is_left_to_it_uncounted(stores: Stores) -> None:
    ids = await submitted(stores.jobs, keys(24, "3"), "public")
    for job_id in ids[:20]:
        await rewrite(stores, LAYOUT.job_key(job_id), "request", for_the_next)
    found = await taken(stores.jobs, 4)
    assert [each.message.job_id for each in found] == ids[20:], "those behind it have their turn"
    assert await taken(stores.jobs, 4) == []
    left = await stores.jobs.get("public", ids[0])
    assert (left.status, left.attempt) == (JobStatus.QUEUED, 0)


async def test_words_in_a_prompt_are_no_schema(stores: Stores) -> None:
    job = new()
    request = job.request.model_copy(update={"prompt": '"min_schema":9,\\"min_schema":9'})
    await stores.jobs.submit(job.model_copy(update={"request": request}))
    (mine,) = await taken(stores.jobs, 8)
    assert mine.message.request.prompt == request.prompt


async def test_a_job_of_another_shape_is_a_503_alone_and_stops_no_list_and_no_sweep(stores: Stores) -> None:
    odd, plain = await submitted(stores.jobs, ["a" * 64, "a1" + "0" * 62], "public")
    await rewrite(stores, LAYOUT.job_key(odd), "request", of_another_shape)
    before = unreadable("job")
    with pytest.raises(RecordUnreadable) as met:
        await stores.jobs.get("public", odd)
    assert (met.value.status, met.value.retry_after_s) == (503, 2.0)
    assert "prompt" not in met.value.message
    assert [job.id for job in await stores.jobs.list("public", 10)] == [plain]
    assert unreadable("job") == before + 2
    stores.jobs.skew_s = 6.0  # type: ignore[attr-defined]
    stale, _ = await stores.jobs.sweep("a", 10)
    assert [message.job_id for message in stale] == [plain], "its own kind will publish the other"


async def test_a_damaged_record_ends_by_its_attempts_and_harms_nobody(stores: Stores) -> None:
    odd, plain = await submitted(stores.jobs, ["a" * 64, "a1" + "0" * 62], "public")
    await rewrite(stores, LAYOUT.job_key(odd), "request", lambda document: {**document, "width": "wide"})
    found = [each.message.job_id for _ in range(8) for each in await taken(stores.jobs, 4)]
    assert found == [plain]
    (stands,) = await stores.jobs.statuses([odd])
    assert stands is JobStatus.FAILED


async def test_an_unknown_status_has_not_ended(stores: Stores) -> None:
    job = new()
    lease = await led(stores.jobs, job)
    jobs = stores.jobs
    assert isinstance(jobs, RedisJobStore)
    await jobs._client.hset(LAYOUT.job_key(lease.job_id), "status", "in_review")
    assert await jobs.statuses([lease.job_id]) == [JobStatus.RUNNING]
    with pytest.raises(RecordUnreadable):
        await jobs.get("public", lease.job_id)


async def test_an_announcement_with_more_fields_is_served(stores: Stores) -> None:
    await stores.models.announce(
        ModelSpec.model_validate({**SPEC.model_dump(), **MORE}),
        WorkerInfo.model_validate({**WORKER.model_dump(), **MORE}),
    )
    announced = await stores.models.models()
    assert [(each.spec.name, len(each.workers)) for each in announced.models] == [("m", 1)]


@pytest.mark.parametrize("change", [for_the_next, of_another_shape])
async def test_an_announcement_for_the_next_version_is_told_apart(
    stores: Stores, change: Callable[[Any], Any]
) -> None:
    await stores.models.announce(SPEC, WORKER)
    await stores.models.announce(SPEC.model_copy(update={"name": "other"}), WORKER)
    await rewrite(stores, f"{MODELS}specs", "other", change)
    announced = await stores.models.models()
    assert [each.spec.name for each in announced.models] == ["m"]
    assert announced.unreadable == {"other"}


async def test_a_key_that_this_version_cannot_enforce_opens_nothing(stores: Stores) -> None:
    plain, strict = key(created_at=1.0), key(created_at=2.0)
    for each in (plain, strict):
        await stores.keys.create(each)
    await rewrite(stores, RECORDS, plain.id, with_more)
    await rewrite(stores, RECORDS, strict.id, for_the_next)
    found = await stores.keys.find(plain.id)
    assert found is not None
    assert found.digest == plain.digest
    with pytest.raises(RecordUnreadable):
        await stores.keys.find(strict.id)
    assert [each.id for each in await stores.keys.list()] == [plain.id]
