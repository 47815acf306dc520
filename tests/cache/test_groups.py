"""What is done for many jobs in one call: each is answered for itself, and one that breaks spoils none of the others."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cache.audit import audit
from cache.connection import connect
from cache.jobs import RedisJobStore
from cache.key_names import Layout, fair_prefix
from cache.layout import LayoutGuard
from cache.order import Order
from cache.results import CHANNEL, RedisResultCache
from cache.scripts import Scripts
from cache.stores import open_stores
from cli.services.redis import RedisServer
from contracts.errors import RecordUnreadable, StoreUnavailable
from contracts.job_store import JobStore
from contracts.jobs import Job, JobEnd, JobFailure, JobResult, JobStatus, NewJob, Priority
from contracts.settings import BackendSettings
from contracts.transitions import End, Finished, Found, Submission, SubmitAnswer, Submitted, TooManyAhead
from tests.cache.conftest import World, watching
from tests.cache.made import FAILURE, KEY, claimed, keys, led, new, result, taken

pytestmark = pytest.mark.anyio


def address(job: NewJob) -> str:
    return f"scope.model.revision.{job.key}"


def job_of(answer: SubmitAnswer) -> Job:
    assert isinstance(answer, Submitted), answer
    return answer.job


def store_of(world: World) -> RedisJobStore:
    assert isinstance(world.stores.jobs, RedisJobStore)
    return world.stores.jobs


async def test_jobs_are_submitted_each_for_itself(world: World) -> None:
    jobs = world.stores.jobs
    cached, landed = new("c" * 64), new("d" * 64)
    await world.stores.results.put(address(cached), result())
    await jobs.succeed(await led(jobs, landed), result("1" * 64 + ".png"))
    known = new("e" * 64)
    await jobs.submit(known)
    leader, follower, late = new("a" * 64), new("a" * 64), new("d" * 64)
    answers = await jobs.submit_many(
        [
            Submission(leader, address(leader)),
            Submission(follower),
            Submission(cached, address(cached)),
            Submission(late),
            Submission(known),
            Submission(new("b" * 64), most_ahead=-1),
        ]
    )
    led_one, joined, found, born, again, refused = answers
    assert isinstance(led_one, Submitted)
    assert isinstance(joined, Submitted)
    assert led_one.lead is not joined.lead
    if world.settings.shards == 1:
        # Where the group is one call, the second of one key joins the first.
        assert led_one.lead
    assert found == Found(result())
    assert job_of(born).status is JobStatus.SUCCEEDED
    assert isinstance(again, Submitted)
    assert again.lead
    assert refused == TooManyAhead(None)
    # What was answered is what is recorded.
    for job in (leader, follower, late, known):
        (answer,) = [each for each in answers if isinstance(each, Submitted) and each.job.id == job.id]
        assert answer.job == await jobs.get("public", job.id)
    assert await jobs.statuses([cached.id]) == [None]


async def test_a_job_is_refused_with_the_count_of_those_ahead(world: World) -> None:
    jobs = world.stores.jobs
    for key in keys(3):
        await jobs.submit(new(key))
    (answer,) = await jobs.submit_many([Submission(new("f" * 64), most_ahead=2)])
    assert answer == TooManyAhead(3)
    (answer,) = await jobs.submit_many([Submission(new("f" * 64), most_ahead=3)])
    assert job_of(answer).status is JobStatus.QUEUED
    # Another tenant's job would have its turn before the second of these.
    other = new("9" * 64, tenant="other")
    (answer,) = await jobs.submit_many([Submission(other, most_ahead=1)])
    assert isinstance(answer, Submitted)
    # What costs no computation is welcome all the same.
    (answer,) = await jobs.submit_many([Submission(new("f" * 64), most_ahead=0)])
    assert isinstance(answer, Submitted)
    assert not answer.lead


async def test_who_takes_no_turn_pays_for_none(world: World) -> None:
    """A refused job, one that joins and one that is found leave the fair order as it was."""
    jobs, layout = world.stores.jobs, store_of(world).layout
    first = new("a" * 64)
    await jobs.submit(first)
    client = connect(world.settings.redis_url, 2.0)
    clock = f"{fair_prefix('m')}finish"
    before = await client.zscore(clock, "interactive:public")
    cached = new("b" * 64)
    await world.stores.results.put(address(cached), result())
    await jobs.submit_many([Submission(new("a" * 64)), Submission(cached, address(cached))])
    await jobs.submit_many([Submission(new("c" * 64), most_ahead=0)])
    assert await client.zscore(clock, "interactive:public") == before
    assert await client.zcard(f"{layout.prefix('a')}waiting:m") == 1
    await client.aclose()


async def test_one_that_breaks_fails_alone(world: World) -> None:
    jobs, layout = world.stores.jobs, store_of(world).layout
    client = connect(world.settings.redis_url, 2.0)
    await client.set(layout.flight_key("a" * 64), "no hash")
    answers = await jobs.submit_many([Submission(new(digit * 64)) for digit in "bac"])
    assert isinstance(answers[1], StoreUnavailable)
    assert [isinstance(each, Submitted) for each in answers] == [True, False, True]
    # An end that breaks, between two that do not.
    await client.delete(layout.flight_key("a" * 64))
    leases = [await led(jobs, new(digit * 64)) for digit in "def"]
    followers = f"{layout.prefix('e')}followers:{'e' * 64}"
    await client.set(followers, "no list")
    ends = await jobs.end_many([End(lease, result()) for lease in leases])
    assert ends[0] == ends[2] == Finished(applied=True)
    assert isinstance(ends[1], StoreUnavailable)
    await client.aclose()


@pytest.mark.parametrize("world", ["cluster"], indirect=True)
async def test_one_that_nobody_foresaw_fails_alone(world: World) -> None:
    """A weight of zero, which the API gives nobody."""
    jobs, odd = world.stores.jobs, new("a" * 64).model_copy(update={"weight": 0.0})
    submissions = [Submission(job) for job in (new("b" * 64), odd, new("c" * 64))]
    for asked in (submissions, [replace(each, address=address(each.new)) for each in submissions]):
        answers = await jobs.submit_many(asked)
        assert isinstance(answers[1], ZeroDivisionError)
        assert [isinstance(each, Submitted) for each in answers] == [True, False, True]


@pytest.mark.parametrize("world", ["cluster"], indirect=True)
async def test_connections_that_are_closed_under_a_group_are_a_store_that_is_away(world: World) -> None:
    """As redis-py does to all others where one call meets a node that is gone."""
    outcomes: set[type] = set()
    for turns in range(25):
        client: Any = connect(world.settings.redis_url, 2.0)
        await client.initialize()
        guard = LayoutGuard(client, 16, 2.0)
        guard.passed = True
        orders = Order(client, Layout(16), guard)
        calls = asyncio.gather(*(orders.waiting("m", []) for _ in range(4)), return_exceptions=True)
        for _ in range(turns):
            await asyncio.sleep(0)
        for node in client.get_nodes():
            for connection in list(node._connections):
                await connection.disconnect(nowait=True)
        outcomes |= set(map(type, await calls))
        await client.aclose()
    assert outcomes == {tuple, StoreUnavailable}


@pytest.mark.parametrize("world", ["redis"], indirect=True)
async def test_a_cached_result_that_cannot_be_read_is_a_miss(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    client = connect(world.settings.redis_url, 2.0)
    await client.set(f"darkroom:result:{address(job)}", '{"of": "another version"}')
    (answer,) = await jobs.submit_many([Submission(job, address(job))])
    assert isinstance(answer, Submitted)
    assert answer.lead
    # A record that cannot be read is that job's alone, too.
    await client.hset(store_of(world).layout.job_key(job.id), "request", "{}")
    answers = await jobs.submit_many([Submission(job), Submission(new("b" * 64))])
    assert isinstance(answers[0], RecordUnreadable)
    assert isinstance(answers[1], Submitted)
    await client.aclose()


async def test_a_hit_that_breaks_fails_alone(world: World) -> None:
    """Of hits that share a call: one whose record is there and cannot be read, and one whose tenant's list is none."""
    jobs, layout = world.stores.jobs, store_of(world).layout
    client = connect(world.settings.redis_url, 2.0)
    known, odd = new(), new(tenant="odd")
    await jobs.submit(known, result())
    await client.hset(layout.job_key(known.id), "request", "{}")
    await client.set(f"{layout.job_prefix(odd.id)}tenant:odd", "no list")
    hits = [new(), known, new(), odd, new()]
    answers = await asyncio.gather(*(jobs.submit(each, result()) for each in hits), return_exceptions=True)
    assert isinstance(answers[1], RecordUnreadable)
    assert isinstance(answers[3], StoreUnavailable)
    for place in (0, 2, 4):
        answer = answers[place]
        assert isinstance(answer, Submitted), answer
        assert answer.job == await jobs.get("public", hits[place].id)
    await client.aclose()


async def test_a_hit_whose_caller_has_left_is_not_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that wait while a call is on its way. The others of their group are."""
    gate, begun, run = asyncio.Event(), asyncio.Event(), Scripts.run

    async def gated(scripts: Scripts, name: str, *rest: Any) -> Any:
        if name == "hit":
            begun.set()
            await gate.wait()
        return await run(scripts, name, *rest)

    monkeypatch.setattr(Scripts, "run", gated)
    jobs, hits = world.stores.jobs, [new() for _ in range(4)]
    first = asyncio.create_task(jobs.submit(hits[0], result()))
    await begun.wait()
    stays, leaves, also_stays = [asyncio.create_task(jobs.submit(each, result())) for each in hits[1:]]
    # Each has had its turn of the loop, and waits for the group that comes next.
    await asyncio.sleep(0)
    leaves.cancel()
    gate.set()
    await asyncio.gather(first, stays, also_stays)
    assert leaves.cancelled()
    assert await jobs.statuses([each.id for each in hits]) == [
        JobStatus.SUCCEEDED,
        JobStatus.SUCCEEDED,
        None,
        JobStatus.SUCCEEDED,
    ]
    client = connect(world.settings.redis_url, 2.0)
    books = await audit(client, 2.0)
    assert books.differences == []
    await client.aclose()


async def test_a_call_that_is_cancelled_leaves_no_hit_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def stuck(scripts: Scripts, name: str, *rest: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Scripts, "run", stuck)
    before = asyncio.all_tasks()
    hits = [asyncio.create_task(world.stores.jobs.submit(new(), result())) for _ in range(2)]
    await begun.wait()
    (worker,) = asyncio.all_tasks() - before - set(hits)
    hits.append(asyncio.create_task(world.stores.jobs.submit(new(), result())))
    await asyncio.sleep(0)
    worker.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait(hits)
    assert all(each.cancelled() for each in hits)


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


async def test_leases_are_renewed_and_messages_confirmed_together(world: World) -> None:
    jobs = world.stores.jobs
    leases = [await led(jobs, new(key)) for key in keys(20)]
    await jobs.cancel("public", leases[3].job_id)
    world.advance(world.settings.lease_s / 2)
    assert await jobs.renew(leases) == [leases[3]]
    assert await jobs.renew([]) == []
    waiting = [new(key) for key in keys(20)]
    for job in waiting:
        await jobs.submit(job)
    await jobs.confirm_many([job.id for job in waiting[1:]])
    await jobs.confirm_many([])
    world.advance(6.0)
    stale = [message.job_id for shard in jobs.shards for message in (await jobs.sweep(shard, 100))[0]]
    assert waiting[0].id in stale
    assert not {job.id for job in waiting[1:]} & set(stale)


async def test_more_jobs_than_one_call_takes(world: World) -> None:
    jobs = world.stores.jobs
    made = [new(key) for key in keys(150)]
    answers = await jobs.submit_many([Submission(job) for job in made])
    assert [job_of(answer).id for answer in answers] == [job.id for job in made]
    mine = await taken(jobs, 150)
    assert len(mine) == 150
    ends = await jobs.end_many([End(job.lease, result()) for job in mine])
    assert all(each == Finished(applied=True) for each in ends)


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


async def test_a_batch_of_one_flow_keeps_its_order(world: World) -> None:
    """Tags that one call gives grow as those of calls one after the other do."""
    jobs = world.stores.jobs
    made = [new(key).model_copy(update={"cost": 4.0, "weight": 2.0}) for key in keys(5)]
    answers = await jobs.submit_many([Submission(job) for job in made])
    if world.settings.shards == 1:
        assert [job_of(answer).tag for answer in answers] == [0.0, 2.0, 4.0, 6.0, 8.0]
    batch = new(KEY).model_copy(update={"priority": Priority.BATCH})
    (answer,) = await jobs.submit_many([Submission(batch)])
    assert job_of(answer).tag == 0.0
