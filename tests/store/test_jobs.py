"""The contract of the job store: what it promises, on one Redis and on a cluster."""

from __future__ import annotations

import asyncio
import time

import pytest

from backends.redis_client import connect
from contracts.errors import JobGone, JobNotFound
from contracts.ids import new_job_id
from contracts.jobs import (
    CacheStatus,
    JobStatus,
)
from contracts.transitions import Ended, Granted
from tests.store.conftest import World
from tests.store.made import claimed, led, new, result, status

pytestmark = pytest.mark.anyio


async def test_the_way_of_one_job(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    submitted = await jobs.submit(job)
    assert submitted.lead
    record = submitted.job
    assert (record.id, record.request, record.key) == (job.id, job.request, job.key)
    assert (record.status, record.cache) == (JobStatus.QUEUED, CacheStatus.MISS)
    assert record.deadline == pytest.approx(record.created_at + 60.0, abs=0.001)
    await jobs.confirm(job.id)
    lease = await claimed(jobs, job.id)
    assert lease.attempt == 1
    running = await jobs.get("public", job.id)
    assert running.status is JobStatus.RUNNING
    assert running.started_at == lease.started_at
    world.advance(1.5)
    assert (await jobs.succeed(lease, result())).applied
    ended = await jobs.get("public", job.id)
    assert ended.status is JobStatus.SUCCEEDED
    assert ended.result == result()
    assert ended.finished_at is not None
    assert ended.finished_at >= record.created_at + 1.4


async def test_submitting_an_id_twice_answers_the_first_record(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    first = await jobs.submit(job)
    assert await jobs.submit(job) == first
    await jobs.confirm(job.id)
    again = await jobs.submit(job)
    assert (again.job, again.lead) == (first.job, False)


async def test_a_cached_result_is_born_succeeded(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    submitted = await jobs.submit(job, result())
    assert not submitted.lead
    assert submitted.job.status is JobStatus.SUCCEEDED
    assert submitted.job.cache is CacheStatus.HIT
    assert submitted.job.result == result()
    assert await jobs.get("public", job.id) == submitted.job
    assert (await jobs.submit(new())).lead, "a cached job must not block its key"


async def test_cancel_is_idempotent_and_leaves_ended_jobs_as_they_are(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    await jobs.succeed(await led(jobs, job), result())
    for _ in range(2):
        ended, finished = await jobs.cancel("public", job.id)
        assert ended.status is JobStatus.SUCCEEDED
        assert not finished.applied


async def test_tenants_are_invisible_to_each_other(world: World) -> None:
    jobs, job = world.stores.jobs, new(tenant="ours")
    await jobs.submit(job)
    for tenant in ("theirs", "our", ""):
        with pytest.raises(JobNotFound):
            await jobs.get(tenant, job.id)
        with pytest.raises(JobNotFound):
            await jobs.cancel(tenant, job.id)
        assert await jobs.list(tenant, 10) == []
    assert (await jobs.get("ours", job.id)).status is JobStatus.QUEUED


async def test_an_unknown_id_is_not_found_and_an_old_one_gone(world: World) -> None:
    jobs = world.stores.jobs
    recent = new_job_id(time.time(), "a")
    with pytest.raises(JobNotFound):
        await jobs.get("public", recent)
    with pytest.raises(JobNotFound):
        await jobs.cancel("public", recent)
    world.advance(world.settings.job_retention_s + 1)
    with pytest.raises(JobGone):
        await jobs.get("public", recent)


async def test_a_withdrawn_job_never_was(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    message = (await jobs.submit(job)).job.message()
    follower = new()
    await jobs.submit(follower)
    finished = await jobs.withdraw(job.id)
    assert finished.applied
    assert [m.job_id for m in finished.promoted] == [follower.id]
    with pytest.raises(JobNotFound):
        await jobs.get("public", job.id)
    assert [j.id for j in await jobs.list("public", 10)] == [follower.id]
    assert await jobs.claim(message, "w1") == Ended(JobStatus.CANCELED), (
        "its message may have arrived after all"
    )
    assert not (await jobs.withdraw(job.id)).applied


async def test_a_claimed_job_cannot_be_withdrawn(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    await led(jobs, job)
    assert not (await jobs.withdraw(job.id)).applied
    assert await status(jobs, job.id) is JobStatus.RUNNING


async def test_a_lost_record_is_rebuilt_from_its_message(world: World) -> None:
    jobs = world.stores.jobs
    other = new(tenant="nobody")
    message = (await jobs.submit(other)).job.message()
    lost = message.model_copy(update={"job_id": new().id, "tenant": "public", "key": "a" + "e" * 63})
    claim = await jobs.claim(lost, "w1")
    assert isinstance(claim, Granted)
    follower = await jobs.submit(new("a" + "e" * 63))
    assert follower.job.cache is CacheStatus.JOINED
    assert (await jobs.succeed(claim.lease, result())).applied
    assert (await jobs.get("public", lost.job_id)).result == result()
    assert await status(jobs, follower.job.id) is JobStatus.SUCCEEDED


async def test_waiting_counts_those_ahead(world: World) -> None:
    jobs = world.stores.jobs
    mine = []
    for digit in "3a7f":
        mine.append((await jobs.submit(new(digit * 64))).job.id)
        world.advance(0.01)
    follower = (await jobs.submit(new("7" * 64))).job.id
    await jobs.submit(new("8" * 64, model="another"))
    assert await jobs.waiting("m", [*mine, follower]) == (4, [0, 1, 2, 3, None])
    await claimed(jobs, mine[0])
    await jobs.cancel("public", mine[2])
    assert await jobs.waiting("m", [*mine, follower]) == (3, [None, 0, None, 2, 1]), (
        "the follower leads now, in its leader's place"
    )
    assert await jobs.waiting("unheard of") == (0, [])


async def test_ended_jobs_are_forgotten_after_the_retention(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    await jobs.succeed(await led(jobs, job), result())
    world.set_clock(world.settings.job_retention_s - 60)
    assert await status(jobs, job.id) is JobStatus.SUCCEEDED
    world.set_clock(60)
    with pytest.raises((JobGone, JobNotFound)):
        await jobs.get("public", job.id)


@pytest.mark.parametrize("world", ["redis"], indirect=True)
async def test_nothing_stays_on_the_server_for_ever(world: World) -> None:
    jobs = world.stores.jobs
    await jobs.succeed(await led(jobs, new("a" * 64)), result())
    lease = await led(jobs, new("b" * 64))
    await jobs.submit(new("b" * 64))
    await jobs.cancel("public", lease.job_id)
    await jobs.submit(new("c" * 64, ttl_s=5.0))
    client = connect(world.settings.redis_url, 2.0)
    live = {"counts", "deadlines", "layout", "leases", "outbox", "waiting:m"}
    for key in await client.keys("darkroom:*"):
        name = str(key).rpartition("}:")[2]
        assert name in live or await client.pttl(key) > 0, key
    await client.aclose()


async def test_a_thousand_reads_at_once_wait_their_turn(world: World) -> None:
    """As when a thousand held requests are let go together: more than there are connections."""
    job = (await world.stores.jobs.submit(new())).job
    found = await asyncio.gather(*(world.stores.jobs.get("public", job.id) for _ in range(1000)))
    assert {each.id for each in found} == {job.id}


async def test_many_hits_at_once_are_each_recorded(world: World) -> None:
    jobs = world.stores.jobs
    made = [new(f"{i % 3:x}{i:063d}", tenant=f"t{i % 2}") for i in range(400)]
    found = await asyncio.gather(*(jobs.submit(each, result()) for each in made))
    for each, submitted_job in zip(made[::37], found[::37], strict=True):
        assert await jobs.get(each.tenant, each.id) == submitted_job.job
    assert {each.job.status for each in found} == {JobStatus.SUCCEEDED}
    again = await jobs.submit(made[0], result("1" * 64 + ".png"))
    assert again.job == found[0].job, "the record that is there already"


async def test_a_message_without_a_record_computes_its_key_anew(world: World) -> None:
    """The result that landed a moment ago is not that of the computation which begins."""
    jobs, before, lost = world.stores.jobs, new(), new()
    await jobs.succeed(await led(jobs, before), result())
    times = {"created_at": time.time(), "deadline": time.time() + 60.0}
    record = (await jobs.get("public", before.id)).model_copy(update={"id": lost.id, **times})
    assert isinstance(await jobs.claim(record.message(), "w1"), Granted)
    late = await jobs.submit(new())
    assert (late.job.status, late.lead) == (JobStatus.QUEUED, False)
