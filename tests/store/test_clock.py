"""A clock of the store that is set back or forward by an hour: nobody is locked out, nothing is held for ever, and every job has as
long as it was given. On one Redis and on a cluster."""

from __future__ import annotations

import time

import pytest

from backends.redis_client import connect
from cache.results import RedisResultCache
from contracts.ids import shard_of
from contracts.jobs import Job, JobStatus
from contracts.models import WorkerInfo
from contracts.tenancy import Charge, Limits
from contracts.transitions import Busy, Ended, Granted
from contracts.webhooks import Attempt, Call, DeliveryStatus
from runtime.clock import SystemClock
from store.jobs import RedisJobStore
from store.layout import LayoutGuard
from store.stores import open_stores
from tests.store.conftest import World
from tests.store.made import claimed, led, new, result, status
from tests.store.test_others import spec
from tests.store.test_webhooks import hooked

pytestmark = pytest.mark.anyio

HOUR_S = 3600.0
KEY_ID = "dk_00000000"
_swept_at: dict[int, float] = {}
both_ways = pytest.mark.parametrize("hour_s", [-HOUR_S, HOUR_S], ids=["back", "forward"])


async def swept(world: World, job: Job, elapsed_s: float | None = 1.0) -> float:
    """As the sweeper does it, `elapsed_s` after its last time, and what the test itself took."""
    shard, now = shard_of(job.id), time.monotonic()
    begun = _swept_at.pop(id(world), now)
    _swept_at[id(world)] = now
    if elapsed_s is not None:
        elapsed_s += now - begun
    step_s = await world.stores.jobs.steady(shard, elapsed_s)
    await world.stores.jobs.sweep(shard, 100)
    return step_s


async def stepped(world: World, job: Job, hour_s: float) -> float:
    """A second passes, in which the clock is set."""
    world.set_clock(hour_s + 1.0)
    return await swept(world, job)


@both_ways
async def test_a_key_waits_no_longer_than_for_its_rate(world: World, hour_s: float) -> None:
    limits = Limits(requests_per_minute=60, burst=3)
    answers = [
        await world.stores.quotas.admit(KEY_ID, limits, Charge(new().id, 1, True, False)) for _ in range(4)
    ]
    assert answers[-1].refused == "requests_per_minute"
    world.set_clock(hour_s)
    account = await world.stores.quotas.admit(KEY_ID, limits, Charge(new().id, 1, True, False))
    assert account.retry_after_s <= 1.001
    assert account.full_in_s <= 3.001
    world.advance(1.001)
    assert not (await world.stores.quotas.admit(KEY_ID, limits, Charge(new().id, 1, True, False))).refused


async def test_what_a_crash_left_behind_in_an_account_is_no_older_than_now(world: World) -> None:
    ledger, limits = world.stores.quotas, Limits(concurrent_jobs=1)
    assert not (await ledger.admit(KEY_ID, limits, Charge(new().id, 1, True, False))).refused
    world.set_clock(-HOUR_S)
    assert (await ledger.admit(KEY_ID, limits, Charge(new().id, 1, True, False))).refused
    ((_, age_s),) = await ledger.held(KEY_ID)
    assert 0 <= age_s < 5
    world.advance(world.settings.job_ttl_s + 61)
    assert not (await ledger.admit(KEY_ID, limits, Charge(new().id, 1, True, False))).refused


async def test_a_lease_of_a_dead_worker_ends_without_a_sweep(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    await led(jobs, job)
    message = (await jobs.get("public", job.id)).message()
    world.set_clock(-HOUR_S)
    busy = await jobs.claim(message, "w2")
    assert isinstance(busy, Busy)
    assert busy.retry_after_s <= world.settings.lease_s
    world.advance(world.settings.lease_s + 0.1)
    assert isinstance(await jobs.claim(message, "w2"), Granted)


@both_ways
async def test_a_job_of_a_dead_worker_waits_again_after_a_lease(world: World, hour_s: float) -> None:
    jobs = world.stores.jobs
    job = (await jobs.submit(new())).job
    await jobs.confirm(job.id)
    await claimed(jobs, job.id)
    await swept(world, job, None)
    assert await stepped(world, job, hour_s) == pytest.approx(hour_s, abs=4)
    assert await status(jobs, job.id) is JobStatus.RUNNING, "its worker may live"
    world.advance(world.settings.lease_s + 0.5)
    assert await swept(world, job, world.settings.lease_s + 0.5) == 0
    assert await status(jobs, job.id) is JobStatus.QUEUED


@both_ways
async def test_jobs_end_at_their_deadline_and_not_an_hour_off(world: World, hour_s: float) -> None:
    jobs = world.stores.jobs
    old = (await jobs.submit(new("a" * 64, ttl_s=60.0))).job
    running = (await jobs.submit(new("a" * 63 + "b", ttl_s=60.0))).job
    lease = await claimed(jobs, running.id)
    await swept(world, old, None)
    world.set_clock(hour_s + 1.0)
    # Before any sweep has looked.
    fresh = (await jobs.submit(new("a" * 63 + "c", ttl_s=60.0))).job
    assert await jobs.renew([lease]) == []
    if hour_s > 0:
        claim = await jobs.claim(old.message(), "w2")
        assert isinstance(claim, Granted)
        assert claim.lease.deadline - claim.lease.claimed_at == pytest.approx(60, abs=4)
        await jobs.release(claim.lease)
        assert await jobs.sweep("a", 10) == ((), ())
    await swept(world, old)
    assert [await status(jobs, each.id) for each in (old, fresh)] == [JobStatus.QUEUED] * 2
    assert await jobs.renew([lease]) == []
    left_s = (await jobs.get("public", old.id)).deadline - (await jobs.get("public", fresh.id)).deadline
    assert left_s == pytest.approx(-1, abs=4)
    world.advance(50)
    assert await swept(world, old, 50) == 0
    assert await status(jobs, old.id) is JobStatus.QUEUED
    world.advance(11)
    await swept(world, old, 11)
    ended = [await status(jobs, each.id) for each in (old, running, fresh)]
    assert ended == [JobStatus.EXPIRED] * 3
    assert isinstance(await jobs.claim(old.message(), "w2"), Ended)


async def test_time_that_has_passed_is_no_step(world: World) -> None:
    """No sweep for an hour, or by a process that did not make the last one: jobs are late, and end."""
    jobs = world.stores.jobs
    first, second = [
        (await jobs.submit(new("a" * 63 + digit, ttl_s=ttl_s))).job
        for digit, ttl_s in (("1", 60.0), ("2", HOUR_S + 60))
    ]
    await swept(world, first, None)
    world.advance(HOUR_S)
    assert await swept(world, first, HOUR_S) == 0
    assert await status(jobs, first.id) is JobStatus.EXPIRED
    world.advance(HOUR_S)
    assert await swept(world, second, None) == 0
    assert await status(jobs, second.id) is JobStatus.EXPIRED


async def test_a_clock_that_was_set_back_is_known_without_the_time_that_passed(world: World) -> None:
    jobs = world.stores.jobs
    job = (await jobs.submit(new(ttl_s=60.0))).job
    await swept(world, job, None)
    world.set_clock(-HOUR_S)
    assert await swept(world, job, None) == pytest.approx(-HOUR_S, abs=4)
    world.advance(61)
    await swept(world, job, 61)
    assert await status(jobs, job.id) is JobStatus.EXPIRED


@both_ways
async def test_a_job_without_a_message_is_published_in_time(world: World, hour_s: float) -> None:
    jobs = world.stores.jobs
    job = (await jobs.submit(new())).job
    await swept(world, job, None)
    await stepped(world, job, hour_s)
    world.advance(6)
    stale, _ = await jobs.sweep(shard_of(job.id), 10)
    assert [message.job_id for message in stale] == [job.id]


async def test_a_lost_record_of_a_clock_that_was_ahead_is_rebuilt_with_its_time_to_live(world: World) -> None:
    jobs = world.stores.jobs
    message = (await jobs.submit(new(ttl_s=60.0))).job.message()
    lost = message.model_copy(update={"job_id": new("b" * 64).id, "key": "b" * 64})
    world.set_clock(-HOUR_S)
    claim = await jobs.claim(lost, "w1")
    assert isinstance(claim, Granted)
    assert claim.lease.deadline - claim.lease.claimed_at == pytest.approx(60, abs=4)


@both_ways
async def test_a_webhook_keeps_its_schedule(world: World, hour_s: float) -> None:
    store, jobs, made = world.stores.webhooks, world.stores.jobs, hooked()
    await jobs.succeed(await led(jobs, made), result())
    job = await jobs.get("public", made.id)
    await swept(world, job, None)
    shard = shard_of(job.id)
    assert await store.take(shard, 10, 60.0) == [Call(job_id=job.id, attempt=1)]
    assert await store.begin(Call(job_id=job.id, attempt=1), 60.0)
    missed = Attempt(at=1.0, duration_ms=2.5, status_code=500)
    await store.settle(Call(job_id=job.id, attempt=1), missed, DeliveryStatus.PENDING, 100.0)
    await stepped(world, job, hour_s)
    assert await store.take(shard, 10, 60.0) == []
    world.advance(101)
    assert await store.take(shard, 10, 60.0) == [Call(job_id=job.id, attempt=2)]


async def test_a_dead_keeper_is_followed_after_its_lease(world: World) -> None:
    jobs = world.stores.jobs
    assert await jobs.take_sweeper_lease("dead", 30.0)
    world.set_clock(-HOUR_S)
    assert not await jobs.take_sweeper_lease("next", 30.0)
    world.set_clock(30.1)
    assert await jobs.take_sweeper_lease("next", 30.0)


async def test_a_dead_worker_is_no_longer_announced_after_its_time(world: World) -> None:
    directory, ttl_s = world.stores.models, world.settings.worker_ttl_s
    await directory.announce(spec("m"), WorkerInfo(id="w", model="m", started_at=1.0))
    world.set_clock(-HOUR_S)
    assert [len(model.workers) for model in (await directory.models()).models] == [1]
    world.set_clock(ttl_s + 0.1)
    (model,) = (await directory.models()).models
    assert (model.workers, model.awaited) == ((), True)
    world.set_clock(world.settings.worker_grace_s)
    assert not (await directory.models()).models[0].awaited


@pytest.mark.parametrize("world", ["redis", "cluster"], indirect=True)
async def test_two_that_sweep_at_once_do_not_take_one_another_for_a_clock(world: World) -> None:
    """One that was stopped in the middle of its sweep, while another took over."""
    job = (await world.stores.jobs.submit(new(ttl_s=60.0))).job
    other = open_stores(world.settings)
    await world.stores.jobs.steady(shard_of(job.id), None)
    await other.jobs.steady(shard_of(job.id), None)
    assert await world.stores.jobs.steady(shard_of(job.id), 30.0) == 0
    assert (await world.stores.jobs.get("public", job.id)).deadline == job.deadline
    await other.close()


@pytest.mark.parametrize("world", ["redis"], indirect=True)
async def test_a_server_that_was_stopped_is_no_clock_that_was_set(world: World) -> None:
    """Its answer comes late: it may have carried out long after what it was asked with the time of then."""

    class Slow(SystemClock):
        calls = 0

        def monotonic(self) -> float:
            self.calls += 1
            return super().monotonic() + 30.0 * self.calls

    client = connect(world.settings.redis_url, 2.0)
    results = RedisResultCache(client, 60.0, 2.0)
    late, shard = RedisJobStore(client, world.settings, Slow(), LayoutGuard(client, 1, 2.0), results), "a"
    job = (await late.submit(new("a" * 64, ttl_s=60.0))).job
    assert await late.steady(shard, None) == 0
    late.skew_s = HOUR_S
    assert await late.steady(shard, 1.0) == 0
    late.skew_s = 0.0
    assert (await late.get("public", job.id)).deadline == job.deadline
    await client.aclose()
