"""The contracts of the quota ledger and the idempotency store, on one Redis and on a cluster."""

from __future__ import annotations

import asyncio
import json

import pytest
from pydantic import ValidationError

from contracts.jobs import JobStatus
from contracts.tenancy import Account, Charge, Limits, Reservation
from store.idempotency import KEPT_S
from tests.store.conftest import World
from tests.store.made import KEY, led, new, result

pytestmark = pytest.mark.anyio

ID = "dk_00000000"


def charge(images: int = 1, computed: bool = True, repeats: bool = False) -> Charge:
    return Charge(new().id, images, computed, repeats)


async def admitted(world: World, limits: Limits, count: int, **fields: bool) -> list[Account]:
    ledger = world.stores.quotas
    return [await ledger.admit(ID, limits, charge(**fields)) for _ in range(count)]


async def test_a_rate_lets_a_burst_through_and_then_its_pace(world: World) -> None:
    limits = Limits(requests_per_minute=60, burst=3)
    answers = await admitted(world, limits, 4)
    assert [answer.refused for answer in answers] == ["", "", "", "requests_per_minute"]
    assert answers[0].full_in_s == pytest.approx(1, abs=0.01)
    assert answers[3].retry_after_s == pytest.approx(1, abs=0.5)
    world.advance(1.0)
    assert [answer.refused for answer in await admitted(world, limits, 2)] == ["", "requests_per_minute"]
    world.advance(60)
    assert [answer.refused for answer in await admitted(world, limits, 4)].count("") == 3


async def test_live_jobs_are_held_until_settled(world: World) -> None:
    ledger, limits = world.stores.quotas, Limits(concurrent_jobs=2)
    first, second = charge(), charge()
    assert not (await ledger.admit(ID, limits, first)).refused
    assert (await ledger.admit(ID, limits, second)).live == 2
    assert (await ledger.admit(ID, limits, charge())).refused == "concurrent_jobs"
    assert not (await ledger.admit(ID, limits, charge(computed=False))).refused, "a hit is never live"
    assert {job_id for job_id, _ in await ledger.held(ID)} == {first.job_id, second.job_id}
    await ledger.settle(ID, [first.job_id], [second.job_id], [])
    assert (await ledger.admit(ID, limits, charge())).live == 2
    assert (await ledger.admit("dk_other000", limits, charge())).live == 1, "each key has its own account"


async def test_running_jobs_do_not_count_as_queued(world: World) -> None:
    ledger, limits = world.stores.quotas, Limits(queued_jobs=1, concurrent_jobs=3)
    first = charge()
    assert not (await ledger.admit(ID, limits, first)).refused
    assert (await ledger.admit(ID, limits, charge())).refused == "queued_jobs"
    await ledger.settle(ID, [], [first.job_id], [])
    account = await ledger.admit(ID, limits, charge())
    assert (account.refused, account.live, account.queued) == ("", 2, 1)
    await ledger.settle(ID, [], [], [first.job_id])
    account = await ledger.admit(ID, limits, charge())
    assert (account.refused, account.live, account.queued) == ("queued_jobs", 2, 2), "given back to the queue"


async def test_pictures_count_by_the_day(world: World) -> None:
    ledger, limits = world.stores.quotas, Limits(images_per_day=5)
    assert (await ledger.admit(ID, limits, charge(images=3))).images == 3
    account = await ledger.admit(ID, limits, charge(images=3))
    assert (account.refused, account.images) == ("images_per_day", 3)
    assert 0 < account.retry_after_s == account.day_ends_in_s <= 86_400
    assert (await ledger.admit(ID, limits, charge(images=2, computed=False))).images == 5
    world.advance(account.day_ends_in_s + 1)
    assert (await ledger.admit(ID, limits, charge(images=5))).images == 5


async def test_a_refund_gives_back_all_but_the_rate(world: World) -> None:
    ledger, limits = (
        world.stores.quotas,
        Limits(requests_per_minute=1, burst=3, concurrent_jobs=1, images_per_day=2),
    )
    one = charge(images=2, repeats=True)
    assert not (await ledger.admit(ID, limits, one)).refused
    await ledger.refund(ID, limits, one)
    account = await ledger.admit(ID, limits, one)
    assert (account.refused, account.live, account.images) == ("", 1, 2)
    assert account.full_in_s == pytest.approx(120, abs=1)


async def test_a_refusal_charges_nothing_but_the_rate(world: World) -> None:
    ledger = world.stores.quotas
    limits = Limits(requests_per_minute=60, burst=10, concurrent_jobs=1, images_per_day=1)
    assert not (await ledger.admit(ID, limits, charge())).refused
    account = await ledger.admit(ID, limits, charge())
    assert (account.refused, account.live, account.images) == ("concurrent_jobs", 1, 1)
    again = await ledger.admit(ID, limits, charge(), charge_rate=False)
    assert again.full_in_s <= account.full_in_s


async def test_a_job_that_comes_again_counts_once(world: World) -> None:
    limits = Limits(requests_per_minute=60, burst=5, concurrent_jobs=1, images_per_day=1)
    one = charge(repeats=True)
    accounts = [await world.stores.quotas.admit(ID, limits, one) for _ in range(20)]
    assert {(each.refused, each.live, each.images) for each in accounts} == {("", 1, 1)}


async def test_what_a_crash_leaves_behind_goes_by_itself(world: World) -> None:
    limits = Limits(concurrent_jobs=1)
    assert not (await admitted(world, limits, 1))[0].refused
    world.advance(world.settings.job_ttl_s + 59)
    assert (await admitted(world, limits, 1))[0].refused
    world.advance(2)
    assert not (await admitted(world, limits, 1))[0].refused


async def test_a_hundred_at_once_get_what_there_is(world: World) -> None:
    ledger, limits = world.stores.quotas, Limits(concurrent_jobs=7, images_per_day=1000)
    answers = await asyncio.gather(*(ledger.admit(ID, limits, charge(images=2)) for _ in range(100)))
    assert [answer.refused for answer in answers].count("") == 7
    assert max(answer.images for answer in answers) == 14


async def test_statuses_of_jobs_whosever_they_are(world: World) -> None:
    jobs = world.stores.jobs
    queued, withdrawn = new("1" * 64), new("2" * 64)
    await jobs.submit(queued)
    await jobs.submit(withdrawn)
    await jobs.withdraw(withdrawn.id)
    lease = await led(jobs, running := new("3" * 64))
    found = await jobs.statuses([queued.id, running.id, withdrawn.id, new().id])
    assert found == [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.CANCELED, None]
    await jobs.succeed(lease, result())
    assert await jobs.statuses([running.id]) == [JobStatus.SUCCEEDED]
    assert await jobs.statuses([]) == []
    assert len(await jobs.statuses([queued.id] * 2500)) == 2500


async def test_the_first_to_reserve_a_key_decides_the_job(world: World) -> None:
    store = world.stores.idempotency
    offers = [Reservation(fingerprint=f"{i}", new=new(KEY)) for i in range(50)]
    answers = await asyncio.gather(*(store.reserve("acme", "k", offer) for offer in offers))
    assert len({answer.id for answer in answers}) == 1
    first = answers[0]
    assert first in offers
    assert await store.find("acme", "k") == first
    assert await store.find("acme", "other") is None
    assert await store.find("other", "k") is None
    await store.complete("acme", "k", first)
    await store.complete("acme", "never reserved", first)
    done = first.settled()
    assert (done.new, done.id, done.done) == (None, first.id, True), "the job's record has its texts"
    assert await store.find("acme", "k") == done
    assert await store.reserve("acme", "k", offers[0]) == done
    assert await store.find("acme", "never reserved") is None


def test_a_reservation_of_before_is_read() -> None:
    """One that kept the whole job after it was accepted."""
    job = new()
    before = json.dumps({"fingerprint": "f", "new": job.model_dump(mode="json"), "done": True})
    known = Reservation.model_validate_json(before)
    assert (known.id, known.done) == (job.id, True)
    assert known.settled().model_dump(exclude_none=True) == {
        "fingerprint": "f",
        "job_id": job.id,
        "tenant": job.tenant,
        "done": True,
    }
    with pytest.raises(ValidationError):
        Reservation(fingerprint="f", done=True)


async def test_a_key_is_forgotten_after_a_day(world: World) -> None:
    store, reservation = world.stores.idempotency, Reservation(fingerprint="f", new=new())
    await store.reserve("acme", "k", reservation)
    await store.complete("acme", "k", reservation)
    world.set_clock(KEPT_S - 60)
    assert await store.find("acme", "k") == reservation.settled()
    world.set_clock(60)
    assert await store.find("acme", "k") is None
