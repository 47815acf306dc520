"""Jobs that end, alone and together: under their own lease, with the cache filled and the others told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from backends.redis_client import connect
from cache.results import CHANNEL, RedisResultCache
from cli.services.redis import RedisServer
from contracts.jobs import Job, JobEnd, JobFailure, JobResult, JobStatus, NewJob
from contracts.ports.job_store import JobStore
from contracts.settings import BackendSettings
from contracts.transitions import End, Finished, Submission
from store.audit import audit
from store.jobs import RedisJobStore
from store.stores import open_stores
from tests.store.answers import address, job_of, store_of
from tests.store.conftest import World, watching
from tests.store.made import FAILURE, claimed, led, new, result, taken

pytestmark = pytest.mark.anyio


async def test_jobs_end_each_under_its_own_lease(world: World) -> None:
    jobs = world.stores.jobs
    done, failed, late, lost = [await led(jobs, new(digit * 64)) for digit in "1234"]
    heir = new("2" * 64)
    await jobs.submit(heir)
    await jobs.release(lost)
    answers = await jobs.end_many(
        [End(done, result()), End(failed, FAILURE), End(late, None), End(lost, result()), End(done, FAILURE)]
    )
    ended = [each for each in answers if isinstance(each, Finished)]
    assert [each.applied for each in ended] == [True, True, True, False, False]
    assert [message.job_id for message in ended[1].promoted] == [heir.id]
    found = await jobs.statuses([each.job_id for each in (done, failed, late, lost)])
    assert found == [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.EXPIRED, JobStatus.QUEUED]


async def kept(world: World, job: NewJob) -> JobResult | None:
    """Its cached result, once what is on its way is there."""
    await store_of(world).close()
    return await world.stores.results.get(address(job))


@pytest.mark.parametrize("how", ["stuck", "broken"])
async def test_no_end_waits_for_a_cache_that_is_elsewhere(
    how: str, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, calls = asyncio.Event(), [0]
    put = RedisResultCache.put

    async def gated(cache: RedisResultCache, place: str, outcome: JobResult) -> None:
        calls[0] += 1
        if how == "broken":
            raise RuntimeError("of our own code")
        await gate.wait()
        await put(cache, place, outcome)

    monkeypatch.setattr(RedisResultCache, "put", gated)
    elsewhere = redis_server.url.replace("/0", "/5")
    settings = BackendSettings(
        redis_url=redis_server.url, cache_redis_url=elsewhere, blob_dir=tmp_path, redis_timeout_s=20.0
    )
    client = connect(redis_server.url, 2.0)
    await client.flushall()
    await client.aclose()
    stores = open_stores(settings)
    for digit in "ab":
        job = new(digit * 64)
        async with asyncio.timeout(10):
            (answer,) = await stores.jobs.end_many([End(await led(stores.jobs, job), result(), address(job))])
        assert answer == Finished(applied=True)
    gate.set()
    assert isinstance(stores.jobs, RedisJobStore)
    await stores.jobs.close()
    assert calls == [2]
    assert await stores.results.get(address(job)) == (result() if how == "stuck" else None)
    await stores.close()


async def test_a_job_that_its_leader_ended_does_not_end_again(world: World) -> None:
    """A follower that a worker has in hand, by an old message, ends in the call that ends its leader."""
    jobs, leader, follower = world.stores.jobs, new(), new()
    mine = await led(jobs, leader)
    await jobs.submit(follower)
    theirs = await claimed(jobs, follower.id)
    answers = await jobs.end_many([End(mine, result()), End(theirs, FAILURE)])
    assert answers == [Finished(applied=True), Finished(applied=False)]
    ended = await jobs.get("public", follower.id)
    assert (ended.status, ended.result, ended.failure) == (JobStatus.SUCCEEDED, result(), None)
    client = connect(world.settings.redis_url, 2.0)
    assert (await audit(client, 2.0)).differences == []
    await client.aclose()


async def test_an_end_fills_the_cache_and_tells_only_of_what_it_replaces(world: World) -> None:
    jobs, results = world.stores.jobs, world.stores.results
    client = connect(world.settings.cache_redis_url or world.settings.redis_url, 2.0)
    if "cluster" in world.settings.redis_url:
        await client.initialize()
    pubsub = client.pubsub()
    await pubsub.subscribe(CHANNEL)
    job = new()
    lease = await led(jobs, job)
    (answer,) = await jobs.end_many([End(lease, result(), address(job))])
    assert answer == Finished(applied=True)
    assert await kept(world, job) == result()
    # The same again is no news; another one is.
    others = [result(), result("2" * 64 + ".png")]
    for number, each in enumerate(others):
        again = new(f"{number}" * 64)
        (answer,) = await jobs.end_many([End(await led(jobs, again), each, address(job))])
        assert answer == Finished(applied=True)
        await store_of(world).close()  # until it is there, where the cache is elsewhere
    assert await results.get(address(job)) == others[1]
    await client.publish(CHANNEL, "the last")
    heard: list[str] = []
    async with asyncio.timeout(10):
        while "the last" not in heard:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=1.0)
            if message is not None:
                heard.append(message["data"])
    assert heard == [address(job), "the last"]
    # A lease that is void puts nothing there.
    await jobs.end_many([End(lease, result("3" * 64 + ".png"), address(job))])
    assert await results.get(address(job)) == others[1]
    await pubsub.aclose()  # type: ignore[no-untyped-call]
    await client.aclose()


async def ended(world: World, how: str) -> tuple[Job, JobEnd]:
    """A job as it was submitted, and its end as a watcher heard it."""
    jobs, job = world.stores.jobs, new()
    first = new()
    if how == "followed":
        await jobs.submit(first)
    submitted = job_of((await jobs.submit_many([Submission(job)]))[0])
    async with watching(world.stores.events, job.id) as changes:
        await ending(jobs, how, job)
        async with asyncio.timeout(10):
            async for change in changes:
                if isinstance(change, JobEnd):
                    return submitted, change
    raise AssertionError(how)


async def ending(jobs: JobStore, how: str, job: NewJob) -> None:
    if how == "canceled":
        await jobs.cancel("public", job.id)
        return
    (mine,) = await taken(jobs, 1)
    outcomes: dict[str, JobResult | JobFailure | None] = {"failed": FAILURE, "expired": None}
    if how == "succeeded":
        await jobs.progress(mine.lease, 3, 4)
    await jobs.end_many([End(mine.lease, outcomes.get(how, result()))])


@pytest.mark.parametrize("how", ["succeeded", "followed", "failed", "expired", "canceled"])
async def test_an_end_tells_all_that_it_changes(world: World, how: str) -> None:
    """Whoever has the job as it was submitted needs no read."""
    submitted, end = await ended(world, how)
    job = await world.stores.jobs.get("public", submitted.id)
    if job.status is not JobStatus.CANCELED and how != "followed":
        assert end.attempt == 1
    assert submitted.ended(end) == job


@pytest.mark.parametrize("world", ["redis"], indirect=True)
@pytest.mark.parametrize("how", ["succeeded", "failed"])
async def test_a_crowd_that_ends_at_once_hears_of_it(world: World, how: str) -> None:
    """What one call tells collects in the connection of who listens, and Redis cuts one that holds too much."""
    jobs, crowd = world.stores.jobs, [new() for _ in range(150)]
    client = connect(world.settings.redis_url, 2.0)
    limits: dict[Any, Any] = await client.config_get("client-output-buffer-limit")
    await client.config_set("client-output-buffer-limit", "pubsub 2mb 0 0")
    try:
        for job in crowd:
            await jobs.submit(job)
        lease = await claimed(jobs, crowd[0].id)
        last = crowd[-1]
        words = "w" * 20_000
        if how == "succeeded":
            outcome: JobResult | JobFailure = result().model_copy(update={"warnings": (words,)})
        else:
            outcome = FAILURE.model_copy(update={"message": words})
            for _ in range(2):
                answer = await jobs.fail(lease, outcome)
                lease = await claimed(jobs, answer.promoted[0].job_id)
        async with watching(world.stores.events, last.id) as changes, asyncio.timeout(10):
            await jobs.end_many([End(lease, outcome)])
            async for change in changes:
                if change == how:
                    break
            else:
                raise AssertionError("the connection was cut")
        assert (await jobs.get("public", last.id)).status == how
    finally:
        await client.config_set("client-output-buffer-limit", limits["client-output-buffer-limit"])
        await client.aclose()


@pytest.mark.parametrize("world", ["redis"], indirect=True)
async def test_an_event_of_another_version_tells_the_status_alone(world: World) -> None:
    job = new()
    await world.stores.jobs.submit(job)
    events = f"{store_of(world).layout.job_prefix(job.id)}events"
    client = connect(world.settings.redis_url, 2.0)
    said = ["succeeded", "succeeded {", 'failed {"finished_at":"soon"}']
    more = {"finished_at": 2.0, "deadline": 3.0, "of": "the next version"}
    async with watching(world.stores.events, job.id) as changes:
        for words in (*said, f"canceled {json.dumps(more)}"):
            await client.publish(events, f"{job.id} {words}")
        async with asyncio.timeout(10):
            heard = [await anext(changes) for _ in range(4)]
    assert heard[:3] == [JobStatus.SUCCEEDED, JobStatus.SUCCEEDED, JobStatus.FAILED]
    end = heard[3]
    assert isinstance(end, JobEnd)
    assert end.finished_at == 2.0
    assert job_of((await world.stores.jobs.submit_many([Submission(job)]))[0]).ended(end).finished_at == 2.0
    await client.aclose()
