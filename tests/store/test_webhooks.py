"""The contract of the webhooks' outbox: owed once, with the job's end, and never lost. On one Redis and on a cluster."""

from __future__ import annotations

import asyncio
import base64

import pytest

from contracts.errors import JobGone, JobNotFound
from contracts.ids import new_job_id, shard_of
from contracts.jobs import JobStatus, NewJob, Webhook
from contracts.transitions import Ended
from contracts.webhooks import EVENTS, Attempt, Call, DeliveryStatus
from store.key_names import Layout
from tests.store.conftest import World
from tests.store.made import FAILURE, led, new, result

pytestmark = pytest.mark.anyio

URL = "https://receiver.example/hook?token=1"
HOOK = Webhook(url=URL, events=EVENTS)
MISS = Attempt(at=1.0, duration_ms=2.5, status_code=500)
HIT = Attempt(at=3.0, duration_ms=1.0, status_code=204)


def hooked(events: tuple[str, ...] = EVENTS, **rest: object) -> NewJob:
    job = new(**rest)  # type: ignore[arg-type]
    return job.model_copy(update={"webhook": Webhook(url=URL, events=events)})


async def taken(world: World, job: NewJob, limit: int = 10) -> list[Call]:
    return list(await world.stores.webhooks.take(shard_of(job.id), limit, 60.0))


async def test_a_living_job_owes_nothing_and_an_ended_one_owes_once(world: World) -> None:
    store, job = world.stores.webhooks, hooked()
    lease = await led(world.stores.jobs, job)
    assert await taken(world, job) == []
    before = await store.get("public", job.id)
    assert (before.webhook, before.event, before.status) == (HOOK, None, None)
    await world.stores.jobs.succeed(lease, result())
    assert not (await world.stores.jobs.succeed(lease, result())).applied
    assert await store.due() == 1
    assert await taken(world, job) == [Call(job_id=job.id, attempt=1)]
    assert await taken(world, job) == [], "taken: not due again before the lease ends"
    assert await store.due() == 0
    log = await store.get("public", job.id)
    assert (log.event, log.status, log.attempts) == ("job.succeeded", DeliveryStatus.PENDING, ())
    assert log.next_attempt_at is not None


@pytest.mark.parametrize("end", ["succeed", "hit", "fail", "cancel", "sweep", "claim late", "exhausted"])
async def test_every_way_to_end_owes(world: World, end: str) -> None:
    jobs, job = world.stores.jobs, hooked(ttl_s=30.0)
    if end == "hit":
        await jobs.submit(job, result())
    else:
        lease = await led(jobs, job)
        match end:
            case "succeed":
                await jobs.succeed(lease, result())
            case "fail":
                await jobs.fail(lease, FAILURE)
            case "cancel":
                await jobs.cancel("public", job.id)
            case "sweep":
                world.advance(31)
                await jobs.sweep(shard_of(job.id), 10)
            case "claim late":
                world.advance(31)
                message = (await jobs.get("public", job.id)).message()
                assert isinstance(await jobs.claim(message, "w"), Ended)
            case "exhausted":
                for _ in range(world.settings.max_attempts):
                    await jobs.release(lease, fault=FAILURE)
                    message = (await jobs.get("public", job.id)).message()
                    claim = await jobs.claim(message, "w")
                    lease = getattr(claim, "lease", lease)
    status = (await jobs.get("public", job.id)).status
    assert status.terminal
    assert (await world.stores.webhooks.get("public", job.id)).event == f"job.{status.value}"
    (call,) = await taken(world, job)
    duty = await world.stores.webhooks.begin(call, 60)
    assert duty is not None
    assert (duty.job.id, duty.job.status, duty.webhook) == (job.id, status, HOOK)


async def test_followers_owe_each_their_own(world: World) -> None:
    leader, follower = hooked(), hooked()
    lease = await led(world.stores.jobs, leader)
    await world.stores.jobs.submit(follower)
    await world.stores.jobs.succeed(lease, result())
    assert {call.job_id for call in await taken(world, leader)} == {leader.id, follower.id}


async def test_events_that_were_not_asked_for_are_not_owed(world: World) -> None:
    job = hooked(("job.failed", "job.expired"))
    lease = await led(world.stores.jobs, job)
    await world.stores.jobs.succeed(lease, result())
    assert await taken(world, job) == []
    log = await world.stores.webhooks.get("public", job.id)
    assert (log.event, log.status) == (None, None)


async def test_a_withdrawn_job_owes_nothing(world: World) -> None:
    job = hooked()
    await world.stores.jobs.submit(job)
    assert (await world.stores.jobs.withdraw(job.id)).applied
    assert await taken(world, job) == []
    with pytest.raises(JobNotFound):
        await world.stores.webhooks.get("public", job.id)


async def test_a_job_rebuilt_from_its_message_still_owes(world: World) -> None:
    """The store has lost everything; the message on the queue has not."""
    job = hooked()
    message = (await world.stores.jobs.submit(hooked(key="b" * 64))).job.message()
    message = message.model_copy(update={"job_id": job.id, "key": job.key})
    claim = await world.stores.jobs.claim(message, "w")
    await world.stores.jobs.succeed(claim.lease, result())  # type: ignore[union-attr]
    assert [call.job_id for call in await taken(world, job)] == [job.id]


async def test_retries_are_logged_and_come_due_when_they_should(world: World) -> None:
    store, job = world.stores.webhooks, hooked()
    await world.stores.jobs.submit(job, result())
    (first,) = await taken(world, job)
    assert await store.begin(first, 60) is not None
    assert await store.settle(first, MISS, DeliveryStatus.PENDING, 30.0)
    assert not await store.settle(first, MISS, DeliveryStatus.PENDING, 30.0), "logged once"
    assert await taken(world, job) == []
    world.advance(29)
    assert await taken(world, job) == []
    world.advance(2)
    (second,) = await taken(world, job)
    assert second.attempt == 2
    assert await store.begin(first, 60) is None, "an old message is of no use"
    assert await store.begin(second, 60) is not None
    assert await store.settle(second, HIT, DeliveryStatus.DELIVERED, None)
    world.advance(3600)
    assert await taken(world, job) == []
    log = await store.get("public", job.id)
    assert (log.status, log.next_attempt_at) == (DeliveryStatus.DELIVERED, None)
    assert log.attempts == (MISS, HIT)


async def test_one_of_many_copies_of_a_call_is_granted(world: World) -> None:
    store, job = world.stores.webhooks, hooked()
    await world.stores.jobs.submit(job, result())
    (call,) = await taken(world, job)
    granted = await asyncio.gather(*(store.begin(call, 60) for _ in range(50)))
    assert sum(duty is not None for duty in granted) == 1


@pytest.mark.parametrize("begun", [False, True], ids=["before", "during"])
async def test_a_taker_that_dies_is_replaced(world: World, begun: bool) -> None:
    store, job = world.stores.webhooks, hooked()
    await world.stores.jobs.submit(job, result())
    (call,) = await taken(world, job)
    if begun:
        assert await store.begin(call, 60) is not None
    world.advance(61)
    assert await taken(world, job) == [call]
    assert await store.begin(call, 60) is not None
    assert await store.settle(call, HIT, DeliveryStatus.DELIVERED, None)
    assert len((await store.get("public", job.id)).attempts) == 1


async def test_a_deferred_attempt_is_not_counted(world: World) -> None:
    store, job = world.stores.webhooks, hooked()
    await world.stores.jobs.submit(job, result())
    (call,) = await taken(world, job)
    assert await store.begin(call, 60) is not None
    await store.defer(call, 5.0)
    assert await taken(world, job) == []
    world.advance(6)
    assert await taken(world, job) == [call]
    assert await store.begin(call, 60) is not None


async def test_a_duty_outlives_the_retention_of_jobs(world: World) -> None:
    store, job = world.stores.webhooks, hooked()
    await world.stores.jobs.submit(job, result())
    world.advance(world.settings.job_retention_s + 100)
    (call,) = await taken(world, job)
    duty = await store.begin(call, 60)
    assert duty is not None
    assert duty.job.status is JobStatus.SUCCEEDED


async def test_take_is_bounded_and_oldest_first(world: World) -> None:
    jobs = [hooked(key="c" * 63 + digit) for digit in "012345"]
    for job in jobs:
        await world.stores.jobs.submit(job, result())
    first = await taken(world, jobs[0], limit=4)
    assert [call.job_id for call in first] == [job.id for job in jobs[:4]]
    assert len(await taken(world, jobs[0])) == 2


async def test_only_the_owner_reads_the_log(world: World) -> None:
    store, job = world.stores.webhooks, hooked()
    await world.stores.jobs.submit(job, result())
    with pytest.raises(JobNotFound):
        await store.get("another", job.id)
    plain = new(key="d" * 64)
    await world.stores.jobs.submit(plain)
    assert (await store.get("public", plain.id)).webhook is None
    with pytest.raises(JobGone):
        await store.get("public", new_job_id(1.0, "a"))


async def test_an_end_wakes_who_listens(world: World) -> None:
    job = hooked()
    wakes = world.stores.webhooks.wakes()

    async def first() -> str:
        return await anext(wakes)

    waiting = asyncio.create_task(first())
    while not waiting.done():
        await world.stores.jobs.submit(hooked(), result())
        await asyncio.wait({waiting}, timeout=0.05)
    assert waiting.result() == Layout(world.settings.shards).name(shard_of(job.id))
    await wakes.aclose()  # type: ignore[attr-defined]


async def test_a_receiver_that_has_gone(world: World) -> None:
    store = world.stores.webhooks
    assert not await store.disabled("public", URL)
    await store.disable("public", URL)
    assert await store.disabled("public", URL)
    assert not await store.disabled("another", URL)
    assert not await store.disabled("public", URL + "2")


async def test_secrets_are_made_once_and_rotate_with_an_overlap(world: World) -> None:
    store = world.stores.webhooks
    made = await asyncio.gather(*(store.secrets("t") for _ in range(20)))
    (secret,) = made[0]
    assert all(each == [secret] for each in made)
    assert len(base64.b64decode(secret.value.removeprefix("whsec_"))) == 32
    assert (await store.secrets("other"))[0].value != secret.value
    current, old = await store.rotate("t", 100.0)
    assert (old.value, current.expires_at) == (secret.value, None)
    assert old.expires_at is not None
    assert old.expires_at == pytest.approx(current.created_at + 100.0, abs=0.01)
    third, second = await store.rotate("t", 100.0)
    assert second.value == current.value, "two at most: the oldest ends at once"
    world.advance(101)
    assert [each.value for each in await store.secrets("t")] == [third.value]
