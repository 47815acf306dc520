"""The contract of the job store: what it promises, on Redis and in memory alike."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable

import pytest

from cache.connection import connect
from contracts.errors import JobGone, JobNotFound, QueueFull
from contracts.ids import new_job_id
from contracts.jobs import (
    CacheStatus,
    GenerationRequest,
    ImageRef,
    JobFailure,
    JobResult,
    JobStatus,
    Lease,
    NewJob,
    Preview,
    Priority,
    Progress,
    Timings,
)
from contracts.ports import Busy, Ended, Granted, JobStore, TakenJob
from tests.cache.conftest import World, watching

pytestmark = pytest.mark.anyio

KEY = "a" * 64
FAILURE = JobFailure(code="engine_fault", message="it broke")
_ticks = itertools.count()


def result(name: str = "0" * 64 + ".png") -> JobResult:
    image = ImageRef(name=name, width=64, height=64, seed=1, content_type="image/png", size_bytes=9)
    return JobResult(
        images=(image,), timings=Timings(queued_ms=1, batch_ms=2, encode_ms=3, batch_size=4), warnings=("w",)
    )


def new(key: str = KEY, tenant: str = "public", model: str = "m", ttl_s: float = 60.0) -> NewJob:
    request = GenerationRequest(
        model=model,
        prompt="Ein Apfel ☂",
        width=64,
        height=64,
        num_inference_steps=1,
        guidance_scale=0.0,
        seed=2**53 - 1,
    )
    # Ids of one test are in order, as they are in one process.
    stamp = time.time() + next(_ticks) / 1000
    return NewJob(id=new_job_id(stamp, key[0]), tenant=tenant, key=key, request=request, ttl_s=ttl_s)


async def led(jobs: JobStore, job: NewJob, worker: str = "w1") -> Lease:
    """Submits a job that leads and claims it."""
    submitted = await jobs.submit(job)
    assert submitted.lead
    return await claimed(jobs, submitted.job.message().job_id, worker)


async def claimed(jobs: JobStore, job_id: str, worker: str = "w1") -> Lease:
    message = (await jobs.get("public", job_id)).message()
    claim = await jobs.claim(message, worker)
    assert isinstance(claim, Granted)
    return claim.lease


async def status(jobs: JobStore, job_id: str) -> JobStatus:
    return (await jobs.get("public", job_id)).status


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


async def test_equal_requests_share_one_computation(world: World) -> None:
    jobs, leader = world.stores.jobs, new()
    lease = await led(jobs, leader)
    followers = [new() for _ in range(3)]
    for follower in followers:
        submitted = await jobs.submit(follower)
        assert not submitted.lead
        assert submitted.job.cache is CacheStatus.JOINED
    assert (await jobs.succeed(lease, result())).applied
    for follower in followers:
        ended = await jobs.get("public", follower.id)
        assert ended.status is JobStatus.SUCCEEDED
        assert ended.result == result()
        assert ended.started_at is not None
        assert ended.started_at >= ended.created_at


async def test_a_flight_that_has_just_landed_serves_those_who_come_before_the_cache_is_filled(
    world: World,
) -> None:
    jobs = world.stores.jobs
    await jobs.succeed(await led(jobs, new()), result())
    late = await jobs.submit(new())
    assert (late.lead, late.job.cache, late.job.result) == (False, CacheStatus.HIT, result())


async def test_a_job_that_may_not_lead_may_still_follow_or_hit(world: World) -> None:
    jobs, refused = world.stores.jobs, new()
    with pytest.raises(QueueFull):
        await jobs.submit(refused, may_lead=False)
    with pytest.raises(JobNotFound):
        await jobs.get("public", refused.id)
    assert await jobs.list("public", 5) == []
    assert (await jobs.submit(new(), result(), may_lead=False)).job.status is JobStatus.SUCCEEDED
    lease = await led(jobs, new())
    follower = await jobs.submit(new(), may_lead=False)
    assert follower.job.cache is CacheStatus.JOINED
    await jobs.succeed(lease, result())
    assert (await jobs.submit(new(), may_lead=False)).job.cache is CacheStatus.HIT, "landed a moment ago"


async def test_other_keys_share_nothing(world: World) -> None:
    jobs = world.stores.jobs
    assert (await jobs.submit(new("a" * 64))).lead
    assert (await jobs.submit(new("b" * 64))).lead
    assert (await jobs.submit(new("a" * 63 + "b"))).lead


async def test_only_one_worker_may_hold_a_job(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    await led(jobs, job)
    second = await jobs.claim((await jobs.get("public", job.id)).message(), "w2")
    assert isinstance(second, Busy)
    assert 0 < second.retry_after_s <= world.settings.lease_s


async def test_a_lapsed_lease_is_taken_over_and_fences_off_the_old_one(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    old = await led(jobs, job)
    world.advance(world.settings.lease_s + 0.1)
    fresh = await claimed(jobs, job.id, "w2")
    assert fresh.attempt == 2
    assert fresh.started_at == pytest.approx(old.started_at)
    assert not (await jobs.succeed(old, result())).applied
    assert not (await jobs.fail(old, FAILURE)).applied
    assert not await jobs.release(old)
    assert list(await jobs.renew([old, fresh])) == [old]
    assert (await jobs.succeed(fresh, result())).applied


async def test_a_renewed_lease_holds(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    lease = await led(jobs, job)
    for _ in range(4):
        world.advance(world.settings.lease_s * 0.7)
        assert await jobs.renew([lease]) == []
    assert isinstance(await jobs.claim((await jobs.get("public", job.id)).message(), "w2"), Busy)


async def test_a_lease_is_not_renewed_past_the_deadline(world: World) -> None:
    jobs, job = world.stores.jobs, new(ttl_s=5.0)
    lease = await led(jobs, job)
    world.advance(5.1)
    assert list(await jobs.renew([lease])) == [lease]


async def test_attempts_are_counted_and_end(world: World) -> None:
    jobs, job = world.stores.jobs, new(ttl_s=600.0)
    message = (await jobs.submit(job)).job.message()
    for attempt in (1, 2, 3):
        claim = await jobs.claim(message, "w1")
        assert isinstance(claim, Granted)
        assert claim.lease.attempt == attempt
        world.advance(world.settings.lease_s + 0.1)
    assert await jobs.claim(message, "w1") == Ended(JobStatus.FAILED)
    ended = await jobs.get("public", job.id)
    assert ended.failure is not None
    assert ended.failure.code == "attempts_exhausted"


async def test_a_released_job_is_queued_again_and_costs_no_attempt(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    message = (await jobs.submit(job)).job.message()
    for _ in range(5):
        lease = await claimed(jobs, job.id)
        assert await jobs.release(lease)
        assert await status(jobs, job.id) is JobStatus.QUEUED
        assert not (await jobs.succeed(lease, result())).applied
    assert isinstance(await jobs.claim(message, "w2"), Granted)


async def test_a_release_that_counts_uses_up_an_attempt(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    message = (await jobs.submit(job)).job.message()
    for _ in range(3):
        assert await jobs.release(await claimed(jobs, job.id), count_attempt=True)
    assert await jobs.claim(message, "w1") == Ended(JobStatus.FAILED)


async def test_a_failed_leader_promotes_followers_twice_then_all_fail_alike(world: World) -> None:
    jobs = world.stores.jobs
    lease = await led(jobs, new())
    followers = [new() for _ in range(6)]
    for follower in followers:
        await jobs.submit(follower)
    for promoted in followers[:2]:
        finished = await jobs.fail(lease, FAILURE)
        assert [message.job_id for message in finished.promoted] == [promoted.id]
        assert await status(jobs, promoted.id) is JobStatus.QUEUED
        lease = await claimed(jobs, promoted.id)
    assert (await jobs.fail(lease, FAILURE)).promoted == ()
    for follower in followers:
        ended = await jobs.get("public", follower.id)
        assert (ended.status, ended.failure) == (JobStatus.FAILED, FAILURE)
    assert (await jobs.submit(new())).lead, "the key is free again"


async def test_a_promoted_follower_completes_the_others(world: World) -> None:
    jobs = world.stores.jobs
    lease = await led(jobs, new())
    first, second = new(), new()
    await jobs.submit(first)
    await jobs.submit(second)
    (message,) = (await jobs.fail(lease, FAILURE)).promoted
    assert message == (await jobs.get("public", first.id)).message()
    assert (await jobs.succeed(await claimed(jobs, first.id), result())).applied
    assert await status(jobs, second.id) is JobStatus.SUCCEEDED


async def test_a_canceled_leader_hands_its_key_over_without_counting(world: World) -> None:
    jobs, leader = world.stores.jobs, new()
    lease = await led(jobs, leader)
    followers = [new() for _ in range(5)]
    for follower in followers:
        await jobs.submit(follower)
    current = leader
    for follower in followers:
        job, finished = await jobs.cancel("public", current.id)
        assert job.status is JobStatus.CANCELED
        assert [message.job_id for message in finished.promoted] == [follower.id]
        current = follower
    assert not (await jobs.succeed(lease, result())).applied, "a canceled job stays canceled"
    assert (await jobs.cancel("public", current.id))[1].promoted == ()


async def test_a_canceled_follower_leaves_the_others_alone(world: World) -> None:
    jobs = world.stores.jobs
    lease = await led(jobs, new())
    first, second = new(), new()
    await jobs.submit(first)
    await jobs.submit(second)
    assert (await jobs.cancel("public", first.id))[1].promoted == ()
    await jobs.succeed(lease, result())
    assert await status(jobs, first.id) is JobStatus.CANCELED
    assert await status(jobs, second.id) is JobStatus.SUCCEEDED


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
    recent = new_job_id(time.time() if world.real else 1_700_000_000.0, "a")
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


async def test_the_sweep_expires_jobs_and_promotes_their_followers(world: World) -> None:
    jobs = world.stores.jobs
    queued, follower, other = new(ttl_s=5.0), new(ttl_s=50.0), new("a" + "c" * 63, ttl_s=50.0)
    for job in (queued, follower, other):
        await jobs.submit(job)
        await jobs.confirm(job.id)
    world.advance(5.1)
    stale, promoted = await jobs.sweep("a", 10)
    assert stale == ()
    assert [message.job_id for message in promoted] == [follower.id]
    assert await status(jobs, queued.id) is JobStatus.EXPIRED
    assert await status(jobs, other.id) is JobStatus.QUEUED


async def test_a_running_job_expires_too_and_its_result_comes_too_late(world: World) -> None:
    jobs, job = world.stores.jobs, new(ttl_s=5.0)
    lease = await led(jobs, job)
    world.advance(5.1)
    await jobs.sweep("a", 10)
    assert await status(jobs, job.id) is JobStatus.EXPIRED
    assert not (await jobs.succeed(lease, result())).applied


async def test_a_claim_past_the_deadline_expires_the_job(world: World) -> None:
    jobs, job = world.stores.jobs, new(ttl_s=5.0)
    message = (await jobs.submit(job)).job.message()
    world.advance(5.1)
    assert await jobs.claim(message, "w1") == Ended(JobStatus.EXPIRED)
    assert await status(jobs, job.id) is JobStatus.EXPIRED


async def test_the_sweep_answers_what_was_never_confirmed_once_per_interval(world: World) -> None:
    jobs, job, sure = world.stores.jobs, new(), new("a" + "d" * 63)
    message = (await jobs.submit(job)).job.message()
    await jobs.submit(sure)
    await jobs.confirm(sure.id)
    assert await jobs.sweep("a", 10) == ((), ()), "not yet"
    world.advance(6)
    stale, _ = await jobs.sweep("a", 10)
    assert list(stale) == [message]
    assert (await jobs.sweep("a", 10))[0] == (), "another sweeper leaves it alone"
    world.advance(6)
    assert list((await jobs.sweep("a", 10))[0]) == [message]
    await jobs.confirm(job.id)
    world.advance(6)
    assert (await jobs.sweep("a", 10))[0] == ()


async def test_the_sweep_is_bounded(world: World) -> None:
    jobs = world.stores.jobs
    for i in range(7):
        await jobs.submit(new(f"a{i:063d}", ttl_s=5.0))
    world.advance(6)
    ended = []
    for _ in range(4):
        before = len([j for j in await jobs.list("public", 10) if j.status is JobStatus.EXPIRED])
        await jobs.sweep("a", 2)
        ended.append(
            len([j for j in await jobs.list("public", 10) if j.status is JobStatus.EXPIRED]) - before
        )
    assert ended == [2, 2, 2, 1]


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


async def test_the_list_is_newest_first_and_pages(world: World) -> None:
    jobs = world.stores.jobs
    submitted = []
    for digit in "0123456789abcdef0123":
        submitted.append((await jobs.submit(new(digit + "f" * 63))).job.id)
        world.advance(0.01)
    submitted.reverse()
    seen: list[str] = []
    while page := await jobs.list("public", 7, seen[-1] if seen else None):
        assert len(page) <= 7
        seen += [job.id for job in page]
    assert seen == submitted


@pytest.mark.parametrize("world", ["memory"], indirect=True)  # a real clock never stands still
async def test_the_list_pages_through_jobs_of_one_moment(world: World) -> None:
    jobs = world.stores.jobs
    submitted = {(await jobs.submit(new(digit + "9" * 63))).job.id for digit in "0123456789"}
    seen: list[str] = []
    while page := await jobs.list("public", 3, seen[-1] if seen else None):
        seen += [job.id for job in page]
    assert len(seen) == len(submitted)
    assert set(seen) == submitted


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


async def test_a_key_has_the_leader_that_computes_it(world: World) -> None:
    jobs = world.stores.jobs
    leader, follower = [(await jobs.submit(new(KEY))).job.id for _ in range(2)]
    assert await jobs.leaders([KEY, "9" * 64]) == [leader, None]
    assert await jobs.leaders([]) == []
    await jobs.cancel("public", leader)
    assert await jobs.leaders([KEY]) == [follower]


@pytest.mark.parametrize("world", ["memory"], indirect=True)  # a server expires keys by its own clock alone
async def test_ended_jobs_are_forgotten_after_the_retention(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    await jobs.succeed(await led(jobs, job), result())
    world.advance(world.settings.job_retention_s + 1)
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
    live = {"counts", "deadlines", "leases", "outbox", "waiting:m"}
    for key in await client.keys("darkroom:*"):
        name = str(key).rpartition("}:")[2]
        assert name in live or await client.pttl(key) > 0, key
    await client.aclose()


async def test_a_thousand_equal_submits_at_once_lead_once(world: World) -> None:
    jobs = world.stores.jobs
    submitted = await asyncio.gather(*(jobs.submit(new()) for _ in range(1000)))
    assert sum(s.lead for s in submitted) == 1
    leader = next(s.job.id for s in submitted if s.lead)
    assert (await jobs.succeed(await claimed(jobs, leader), result())).applied
    assert {(await jobs.get("public", s.job.id)).status for s in submitted[::50]} == {JobStatus.SUCCEEDED}


async def test_a_thousand_reads_at_once_wait_their_turn(world: World) -> None:
    """As when a thousand held requests are let go together: more than there are connections."""
    job = (await world.stores.jobs.submit(new())).job
    found = await asyncio.gather(*(world.stores.jobs.get("public", job.id) for _ in range(1000)))
    assert {each.id for each in found} == {job.id}


async def test_a_race_of_claims_grants_one(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    message = (await jobs.submit(job)).job.message()
    claims = await asyncio.gather(*(jobs.claim(message, f"w{i}") for i in range(50)))
    assert sum(isinstance(claim, Granted) for claim in claims) == 1


async def submitted(jobs: JobStore, keys: Iterable[str], tenant: str, **changes: object) -> list[str]:
    made = [new(key, tenant).model_copy(update=changes) for key in keys]
    return [(await jobs.submit(each)).job.id for each in made]


def keys(count: int, digits: str = "0123456789abcdef") -> list[str]:
    """Different keys, spread over the shards of `digits`."""
    return [digits[i % len(digits)] + f"{next(_ticks):063x}" for i in range(count)]


async def taken(jobs: JobStore, limit: int, worker: str = "w1") -> list[TakenJob]:
    return list((await jobs.take("m", worker, limit)).jobs)


async def test_jobs_are_taken_once_each_and_the_oldest_first(world: World) -> None:
    jobs = world.stores.jobs
    mine = await submitted(jobs, keys(20, "3"), "public")
    first = await taken(jobs, 8)
    assert [each.message.job_id for each in first] == mine[:8]
    rest = await asyncio.gather(*(taken(jobs, 8, f"w{i}") for i in range(5)))
    found = [each.message.job_id for page in rest for each in page]
    while page := await taken(jobs, 8):
        found += [each.message.job_id for each in page]
    assert sorted(found) == mine[8:], "none twice, none forgotten"
    lease = first[0].lease
    assert (lease.attempt, await status(jobs, lease.job_id)) == (1, JobStatus.RUNNING)
    assert (await jobs.succeed(lease, result())).applied


async def test_a_tenant_with_a_long_queue_does_not_delay_another(world: World) -> None:
    jobs = world.stores.jobs
    await submitted(jobs, keys(160), "greedy")
    for _ in range(4):
        await taken(jobs, 8)
    (other,) = await submitted(jobs, keys(1), "modest")
    assert await jobs.ahead("m", "interactive:somebody") == 1, "but for the other newcomer"
    assert await jobs.ahead("m", "interactive:greedy") == 129
    _, (position,) = await jobs.waiting("m", [other])
    assert position == 0
    assert (await taken(jobs, 1))[0].message.job_id == other


async def test_interactive_jobs_go_before_batch_jobs_which_never_starve(world: World) -> None:
    jobs = world.stores.jobs
    batch = await submitted(jobs, keys(64), "public", priority=Priority.BATCH, weight=1.0)
    await taken(jobs, 16)
    interactive = await submitted(jobs, keys(256), "public", priority=Priority.INTERACTIVE, weight=8.0)
    served = []
    for _ in range(20):
        served += [each.message.job_id for each in await taken(jobs, 8)]
    share = sum(each in batch for each in served) / len(served)
    assert 0.02 < share < 0.3
    assert sum(each in interactive for each in served) > 60


async def test_a_job_given_back_keeps_its_place(world: World) -> None:
    jobs = world.stores.jobs
    mine = await submitted(jobs, keys(6, "5"), "public")
    first = await taken(jobs, 2)
    await jobs.release(first[0].lease)
    assert [each.message.job_id for each in await taken(jobs, 2)] == [mine[0], mine[2]]


async def test_a_waiting_job_is_left_to_its_turn_unless_it_is_lost(world: World) -> None:
    jobs = world.stores.jobs
    (mine,) = await submitted(jobs, keys(1), "public")
    message = (await jobs.get("public", mine)).message()
    assert isinstance(await jobs.claim(message, "w1", leave_waiting=True), Busy)
    (first,) = await taken(jobs, 8)
    assert isinstance(await jobs.claim(message, "w2", leave_waiting=True), Busy)
    world.advance(11.0)
    claim = await jobs.claim(message, "w2", leave_waiting=True)
    assert isinstance(claim, Granted), "the lease has lapsed"
    assert not (await jobs.succeed(first.lease, result())).applied
    lost = message.model_copy(update={"job_id": new_job_id(time.time(), "a"), "key": KEY})
    assert isinstance(await jobs.claim(lost, "w1", leave_waiting=True), Busy)
    assert lost.job_id in {each.message.job_id for each in await taken(jobs, 8)}


async def test_what_cannot_be_done_in_time_expires_under_the_fence(world: World) -> None:
    jobs = world.stores.jobs
    lease = await led(jobs, new())
    follower = (await jobs.submit(new())).job
    finished = await jobs.expire(lease)
    assert finished.applied
    assert [message.job_id for message in finished.promoted] == [follower.id]
    assert await status(jobs, lease.job_id) is JobStatus.EXPIRED
    assert not (await jobs.expire(lease)).applied


async def test_a_job_past_its_deadline_is_not_taken_and_a_follower_takes_its_place(world: World) -> None:
    jobs = world.stores.jobs
    leader = new(ttl_s=5.0)
    await jobs.submit(leader)
    follower = (await jobs.submit(new(ttl_s=60.0))).job
    world.advance(6.0)
    answer = await jobs.take("m", "w1", 8)
    assert [message.job_id for message in answer.promoted] == [follower.id]
    assert await status(jobs, leader.id) is JobStatus.EXPIRED


async def test_a_job_taken_before_its_message_was_confirmed_is_published_all_the_same(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    await jobs.submit(job)
    (mine,) = await taken(jobs, 1)
    world.advance(6.0)
    stale, _ = await jobs.sweep(job.id[-1], 10)
    assert [message.job_id for message in stale] == [job.id], "its worker may die"
    assert (await jobs.succeed(mine.lease, result())).applied
    world.advance(6.0)
    assert await jobs.sweep(job.id[-1], 10) == ((), ())


async def test_every_change_is_counted_and_steps_are_remembered(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    first = (await jobs.submit(job)).job
    lease = await claimed(jobs, job.id)
    running = await jobs.get("public", job.id)
    assert running.sequence > first.sequence
    assert running.progress is None
    for step in (1, 2):
        assert await jobs.progress(lease, step, 4)
    drawn = await jobs.get("public", job.id)
    assert drawn.progress == Progress(step=2, steps=4)
    assert drawn.sequence == running.sequence + 2
    assert (await jobs.succeed(lease, result())).applied
    ended = await jobs.get("public", job.id)
    assert ended.sequence == drawn.sequence + 1
    assert not await jobs.progress(lease, 3, 4), "ended: nothing is left to tell"
    assert await jobs.get("public", job.id) == ended


async def test_a_preview_is_told_to_leader_and_followers_and_changes_nothing(world: World) -> None:
    jobs, leader, follower = world.stores.jobs, new(), new()
    lease = await led(jobs, leader)
    await jobs.submit(follower)
    before = [await jobs.get("public", each.id) for each in (leader, follower)]
    async with (
        watching(world.stores.events, leader.id) as mine,
        watching(world.stores.events, follower.id) as theirs,
        asyncio.timeout(5),
    ):
        assert await jobs.preview(lease, Preview(index=1, name="0f.png"))
        assert [await anext(each) for each in (mine, theirs)] == [Preview(index=1, name="0f.png")] * 2
    assert [await jobs.get("public", each.id) for each in (leader, follower)] == before
    assert (await jobs.succeed(lease, result())).applied
    assert not await jobs.preview(lease, Preview(index=2, name="0f.png")), "ended: nothing is left to show"


async def test_steps_of_a_lost_lease_are_refused_and_a_new_attempt_begins_without(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    lease = await led(jobs, job)
    await jobs.progress(lease, 3, 4)
    world.advance(world.settings.lease_s + 1)
    second = await claimed(jobs, job.id, "w2")
    assert (await jobs.get("public", job.id)).progress is None
    assert not await jobs.progress(lease, 4, 4)
    assert (await jobs.get("public", job.id)).progress is None
    await jobs.progress(second, 1, 4)
    assert await jobs.release(second)
    assert (await jobs.get("public", job.id)).progress is None


async def test_followers_see_the_steps_of_their_leader_until_they_lead(world: World) -> None:
    jobs, leader, follower = world.stores.jobs, new(), new()
    lease = await led(jobs, leader)
    await jobs.submit(follower)
    await jobs.progress(lease, 1, 2)
    followed = await jobs.get("public", follower.id)
    assert (followed.progress, followed.sequence) == (Progress(step=1, steps=2), 1)
    await jobs.fail(lease, FAILURE)
    assert (await jobs.get("public", follower.id)).progress is None


async def test_many_hits_at_once_are_each_recorded(world: World) -> None:
    jobs = world.stores.jobs
    made = [new(f"{i % 3:x}{i:063d}", tenant=f"t{i % 2}") for i in range(400)]
    found = await asyncio.gather(*(jobs.submit(each, result()) for each in made))
    for each, submitted_job in zip(made[::37], found[::37], strict=True):
        assert await jobs.get(each.tenant, each.id) == submitted_job.job
    assert {each.job.status for each in found} == {JobStatus.SUCCEEDED}
    again = await jobs.submit(made[0], result("1" * 64 + ".png"))
    assert again.job == found[0].job, "the record that is there already"
