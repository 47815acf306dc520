"""The contracts of events, results, the model directory and blobs, on real services."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing
from pathlib import Path

import pytest

from backends.blobs import DirectoryBlobStore
from backends.redis_client import connect
from cache.cache_key import result_address, result_pattern, tenant_scope
from cli.services.redis import RedisServer
from contracts.errors import ImageNotFound, StoreUnavailable
from contracts.jobs import CacheStatus, Change, JobEnd, JobStatus, Progress
from contracts.models import ModelSpec, ServedModel, WorkerInfo
from contracts.settings import BackendSettings
from contracts.transitions import Granted
from runtime.clock import SystemClock
from store.events import parse_change
from store.stores import open_stores
from tests.store.conftest import World, watching
from tests.store.made import KEY, led, new, result

pytestmark = pytest.mark.anyio


def status_of(change: Change) -> Change:
    """What a change says of the status, whether or not it tells more."""
    return change.status if isinstance(change, JobEnd) else change


async def test_a_watcher_hears_every_change_after_it_began(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    await jobs.submit(job)
    heard: list[Change] = []
    async with watching(world.stores.events, job.id) as statuses:
        lease = await led(jobs, new("b" * 64))
        await jobs.succeed(lease, result())
        await jobs.cancel("public", job.id)
        async with asyncio.timeout(5):
            async for status in statuses:
                heard.append(status_of(status))
                if status.terminal:
                    break
    assert heard == [JobStatus.CANCELED]


async def test_followers_are_told_of_their_end(world: World) -> None:
    jobs = world.stores.jobs
    lease = await led(jobs, new())
    follower = new()
    await jobs.submit(follower)
    async with watching(world.stores.events, follower.id) as statuses:
        await jobs.succeed(lease, result())
        async with asyncio.timeout(5):
            assert status_of(await anext(statuses)) is JobStatus.SUCCEEDED


async def test_a_watcher_hears_of_steps(world: World) -> None:
    jobs = world.stores.jobs
    lease = await led(jobs, new())
    follower = new()
    await jobs.submit(follower)
    async with (
        watching(world.stores.events, lease.job_id) as own,
        watching(world.stores.events, follower.id) as others,
    ):
        assert await jobs.progress(lease, 1, 4)
        async with asyncio.timeout(5):
            assert await anext(own) == Progress(step=1, steps=4)
            assert await anext(others) == Progress(step=1, steps=4)


async def test_a_worker_hears_of_what_is_canceled_in_its_hands(world: World) -> None:
    jobs, events = world.stores.jobs, world.stores.events
    mine_first, other, waiting = (new(key * 64) for key in "abc")
    for job, worker in ((mine_first, "w"), (other, "v")):
        claim = await jobs.claim((await jobs.submit(job)).job.message(), worker)
        assert isinstance(claim, Granted)
    await jobs.submit(waiting)
    async with aclosing(events.canceled("w")) as canceled, asyncio.timeout(10):
        hearing = asyncio.ensure_future(anext(canceled))
        await jobs.cancel("public", other.id)
        await jobs.cancel("public", waiting.id)
        mine = [mine_first.id]
        await jobs.cancel("public", mine_first.id)
        # Whoever has only just begun to listen may miss one, but not all that follow.
        while not (await asyncio.wait({hearing}, timeout=0.1))[0]:
            again = new("d" * 64)
            assert isinstance(await jobs.claim((await jobs.submit(again)).job.message(), "w"), Granted)
            await jobs.cancel("public", again.id)
            mine.append(again.id)
        assert await hearing in mine


@pytest.mark.parametrize(
    "words", ["", "paused", "progress", "progress 1", "progress x 4", "progress 0 0", "\u00b2"]
)
def test_what_another_version_says_is_not_understood_and_does_no_harm(words: str) -> None:
    assert parse_change(words) is None


async def test_many_watch_at_once_and_each_hears_only_its_own(world: World) -> None:
    jobs = world.stores.jobs
    submitted = [new(f"{i % 16:x}{i:063d}") for i in range(64)]
    for job in submitted:
        await jobs.submit(job)

    async def watch(job_id: str) -> Change:
        async with watching(world.stores.events, job_id) as statuses:
            ready.release()
            return await anext(statuses)

    ready = asyncio.Semaphore(0)
    watches = [asyncio.create_task(watch(job.id)) for job in submitted for _ in range(2)]
    for _ in watches:
        await ready.acquire()
    for job in submitted[::2]:
        await jobs.cancel("public", job.id)
    async with asyncio.timeout(5):
        heard = await asyncio.gather(*(w for i, w in enumerate(watches) if i // 2 % 2 == 0))
    assert set(map(status_of, heard)) == {JobStatus.CANCELED}
    rest = [w for w in watches if not w.done()]
    assert len(rest) == len(watches) // 2
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def address(key: str = KEY, tenant: str = "public", model: str = "m", revision: str = "1") -> str:
    request = new().request.model_copy(update={"model": model, "model_revision": revision})
    return result_address(key, request, tenant_scope(tenant, shared=False))


@pytest.mark.parametrize(
    ("named", "kept"),
    [
        ({"key": KEY}, {"b", "c", "d"}),
        ({"scope": "tenant:public"}, {"d"}),
        ({"model": "m"}, {"c"}),
        ({"model": "m", "revision": "1"}, {"b", "c"}),
        ({"scope": "tenant:public", "model": "m", "revision": "2"}, {"a", "c", "d"}),
        ({"scope": "tenant:*"}, {"a", "b", "c", "d"}),
        ({}, set()),
    ],
)
async def test_results_are_purged_by_what_is_named(
    world: World, named: dict[str, str], kept: set[str]
) -> None:
    results = world.stores.results
    stored = {
        "a": address(KEY),
        "b": address("b" * 64, revision="2"),
        "c": address("c" * 64, model="n"),
        "d": address("d" * 64, tenant="other"),
    }
    for each in stored.values():
        await results.put(each, result())
    purged = await results.purge(result_pattern(**named))
    assert {key[0] for key in purged} == set(stored) - kept
    assert {name for name, each in stored.items() if await results.get(each)} == kept
    assert (await results.stats()).entries == len(kept)


async def test_the_cache_counts_how_it_took_jobs(world: World) -> None:
    results = world.stores.results
    before = await results.stats()
    for outcome in (CacheStatus.HIT, CacheStatus.HIT, CacheStatus.MISS, CacheStatus.JOINED):
        results.count(outcome)
    after = await results.stats()
    assert (after.hits - before.hits, after.misses - before.misses, after.joined - before.joined) == (2, 1, 1)


async def test_a_landed_flight_that_is_forgotten_answers_nobody(world: World) -> None:
    jobs = world.stores.jobs
    await jobs.succeed(await led(jobs, new()), result())
    assert (await jobs.submit(new())).job.cache is CacheStatus.HIT
    await jobs.forget_landed([KEY, "b" * 64])
    assert (await jobs.submit(new())).lead
    await jobs.forget_landed([KEY])
    assert (await jobs.submit(new())).job.cache is CacheStatus.JOINED, "one in flight goes on"


async def test_results_are_kept_for_their_time_and_can_be_deleted(world: World) -> None:
    results = world.stores.results
    assert await results.get(KEY) is None
    await results.put(KEY, result())
    assert await results.get(KEY) == result()
    assert await results.get("b" * 64) is None
    assert await results.delete(KEY)
    assert not await results.delete(KEY)
    assert await results.get(KEY) is None


@pytest.mark.parametrize("world", ["redis"], indirect=True)
async def test_a_result_has_a_time_to_live_and_a_damaged_one_is_a_miss(world: World) -> None:
    results = world.stores.results
    await results.put(KEY, result())
    client = connect(world.settings.redis_url, 2.0)
    (key,) = await client.keys("darkroom:result:*")
    assert 0 < await client.ttl(key) <= world.settings.result_ttl_s
    await client.set(key, '{"images": 7}')
    await client.aclose()
    assert await results.get(KEY) is None


def spec(name: str, revision: str = "1") -> ModelSpec:
    return ModelSpec(
        name=name,
        revision=revision,
        dtype="float32",
        default_width=64,
        default_height=64,
        size_multiple=16,
        min_size=32,
        max_size=96,
        max_pixels=9216,
        default_steps=1,
        max_steps=4,
        default_guidance_scale=0.0,
        max_guidance_scale=7.5,
        max_prompt_tokens=77,
        max_batch=8,
    )


async def test_the_directory_lists_models_and_their_live_workers(world: World) -> None:
    directory = world.stores.models
    assert list((await directory.models()).models) == []
    one = WorkerInfo(id="w1", model="b", started_at=1.0, steps_per_s=2.5)
    two = WorkerInfo(id="w2", model="b", started_at=2.0)
    other = WorkerInfo(id="w3", model="a", started_at=3.0)
    await directory.announce(spec("b"), two)
    await directory.announce(spec("b", "2"), one)
    await directory.announce(spec("a"), other)
    assert list((await directory.models()).models) == [
        ServedModel(spec=spec("a"), workers=(other,)),
        ServedModel(spec=spec("b", "2"), workers=(one, two)),
    ]
    await directory.withdraw(one)
    await directory.withdraw(other)
    found = [(m.spec.name, len(m.workers), m.awaited) for m in (await directory.models()).models]
    assert found == [("a", 0, True), ("b", 1, False)]


async def test_a_silent_worker_is_forgotten_its_model_is_not(
    anyio_backend: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    stores = open_stores(
        BackendSettings(redis_url=redis_server.url, blob_dir=tmp_path, worker_ttl_s=0.05, worker_grace_s=0.5)
    )
    worker = WorkerInfo(id="w", model="silent", started_at=1.0)

    async def seen() -> ServedModel:
        (found,) = [m for m in (await stores.models.models()).models if m.spec.name == "silent"]
        return found

    await stores.models.announce(spec("silent"), worker)
    async with asyncio.timeout(10):
        while (await seen()).workers:
            await asyncio.sleep(0.01)
        assert (await seen()).awaited, "one that was here a moment ago comes back"
        while (await seen()).awaited:
            await asyncio.sleep(0.01)
    await stores.close()


async def test_blobs_are_named_by_their_bytes(world: World) -> None:
    blobs = world.stores.blobs
    data = bytes(range(256)) * 40
    name = await blobs.put(data, "png")
    assert name == hashlib.sha256(data).hexdigest() + ".png"
    assert await blobs.put(data, "png") == name
    assert await blobs.get(name) == data
    assert await blobs.exists(name)


@pytest.mark.parametrize(
    "name",
    ["", "..", "../../etc/passwd", "0" * 64, "0" * 63 + ".png", "0" * 64 + ".exe", "0" * 64 + ".png\n", "\0"],
)
async def test_what_is_no_name_is_no_blob(world: World, name: str) -> None:
    with pytest.raises(ImageNotFound):
        await world.stores.blobs.get(name)
    assert not await world.stores.blobs.exists(name)


async def test_a_blob_directory_keeps_no_halves(anyio_backend: str, tmp_path: Path) -> None:
    blobs = DirectoryBlobStore(tmp_path, SystemClock())
    names = await asyncio.gather(*(blobs.put(b"same", "png") for _ in range(20)))
    assert len(set(names)) == 1
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [names[0]]


async def test_a_blob_directory_that_fails_says_so(anyio_backend: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="Not a directory"):
        await DirectoryBlobStore(tmp_path / "file", SystemClock()).put(b"x", "png")
