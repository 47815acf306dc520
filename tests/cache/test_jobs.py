"""The contract of the job store: what it promises, on one Redis and on a cluster."""

from __future__ import annotations

import asyncio
import time

import pytest

from cache.connection import connect
from cache.key_names import Layout
from contracts.errors import JobGone, JobNotFound, QueueFull
from contracts.ids import new_job_id
from contracts.jobs import (
    CacheStatus,
    JobStatus,
)
from contracts.transitions import Busy, Ended, Granted
from tests.cache.conftest import World
from tests.cache.made import FAILURE, KEY, claimed, led, new, result, status

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
        assert await jobs.release(await claimed(jobs, job.id), fault=FAILURE)
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


async def test_the_list_pages_through_jobs_of_one_moment(world: World) -> None:
    """Hits of one shard are recorded together, under one time."""
    jobs = world.stores.jobs
    made = [new("a" + f"{number:063x}") for number in range(30)]
    hits = await asyncio.gather(*(jobs.submit(each, result()) for each in made))
    assert len({hit.job.created_at for hit in hits}) < 10
    seen: list[str] = []
    while page := await jobs.list("public", 3, seen[-1] if seen else None):
        seen += [job.id for job in page]
    assert len(seen) == len(made)
    assert set(seen) == {each.id for each in made}


async def test_the_list_holds_live_jobs_that_are_older_than_the_retention(world: World) -> None:
    jobs, long_s = world.stores.jobs, 3 * world.settings.job_retention_s
    old = []
    for number in range(7):
        old.append((await jobs.submit(new("b" + f"{number:063x}", ttl_s=long_s))).job.id)
        world.advance(0.01)
    world.advance(world.settings.job_retention_s + 1)
    fresh = (await jobs.submit(new("b" + "f" * 63, ttl_s=1.0))).job.id
    assert [job.id for job in await jobs.list("public", 100)] == [fresh, *reversed(old)]


async def test_a_short_job_does_not_end_the_list_that_holds_a_long_one(world: World) -> None:
    jobs, retention_s = world.stores.jobs, world.settings.job_retention_s
    long_one = (await jobs.submit(new("b" * 64, ttl_s=3 * retention_s))).job.id
    await jobs.submit(new("b" * 63 + "c", ttl_s=1.0))
    world.set_clock(2 * retention_s)
    assert [job.id for job in await jobs.list("public", 100)] == [long_one]


async def test_a_page_is_full_where_records_have_ended_between(world: World) -> None:
    """Every second job is no longer kept: that shortens no page, and ends no list."""
    jobs = world.stores.jobs
    kept, gone = [], []
    for number in range(20):
        job = new(
            "0123456789abcdef"[number % 16] + f"{number:063x}", ttl_s=10 * world.settings.job_retention_s
        )
        lease = await led(jobs, job)
        if number % 4 == 0:
            kept.append(job.id)
        else:
            gone.append(job.id)
            await jobs.succeed(lease, result())
        world.set_clock(0.01)
    world.set_clock(world.settings.job_retention_s + 1)
    kept.reverse()
    assert await jobs.statuses(gone) == [None] * len(gone)
    for limit in (1, 2, 3, 100):
        seen: list[str] = []
        while page := await jobs.list("public", limit, seen[-1] if seen else None):
            assert len(page) == min(limit, len(kept) - len(seen))
            seen += [job.id for job in page]
        assert seen == kept


async def test_a_cursor_whose_job_is_no_longer_kept_goes_on_where_it_stood(world: World) -> None:
    jobs = world.stores.jobs
    first = (await jobs.submit(new("c" * 64))).job
    world.advance(10)
    gone = new("d" * 64).model_copy(update={"id": new_job_id(first.created_at + 10, "d")})
    await jobs.submit(gone)
    world.advance(10)
    await jobs.submit(new("e" * 64))
    await jobs.withdraw(gone.id)
    assert [job.id for job in await jobs.list("public", 10, gone.id)] == [first.id]


async def test_places_of_jobs_that_are_no_longer_kept_go_by_themselves(world: World) -> None:
    jobs = world.stores.jobs
    for number in range(5):
        await jobs.succeed(await led(jobs, new("a" + f"{number:063x}")), result())
    alive = (await jobs.submit(new("a" * 64, ttl_s=10 * world.settings.job_retention_s))).job.id
    world.set_clock(world.settings.job_retention_s + 1)
    later = [(await jobs.submit(new("a" * 63 + digit))).job.id for digit in "bc"]
    client = connect(world.settings.redis_url, 2.0)
    assert set(await client.zrange(Layout(world.settings.shards).tenant_key(alive, "public"), 0, -1)) == {
        alive,
        *later,
    }
    await client.aclose()


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
