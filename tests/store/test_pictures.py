"""The outbox of pictures: recorded once, with the job's end, owed to the index until it has them, and erased with their tenant.
On one Redis and on a cluster."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Sequence

import pytest

from backends.redis_client import connect
from contracts.jobs import JobStatus, Lease, NewJob
from contracts.pictures import SHARED, PictureRecord
from contracts.ports.picture_outbox import Unwanted
from contracts.tenancy import Reservation
from contracts.transitions import End, Finished, Granted
from store.key_names import Layout
from store.stores import Stores
from tests.store.conftest import World
from tests.store.made import FAILURE, KEEP_S, keys, led, name, new, record, result, status

pytestmark = pytest.mark.anyio

LEASE_S = 60.0


async def ended(world: World, job: NewJob, *pictures: PictureRecord, lease: Lease | None = None) -> Finished:
    lease = lease or await led(world.stores.jobs, job)
    (answer,) = await world.stores.jobs.end_many([End(lease, result(), pictures=pictures)])
    assert isinstance(answer, Finished), answer
    return answer


async def taken(world: World, limit: int = 100) -> list[str]:
    store = world.stores.pictures
    return [job_id for shard in store.shards for job_id in await store.take(shard, limit, LEASE_S)]


async def unwanted(stores: Stores) -> list[Unwanted]:
    store = stores.pictures
    return [each for shard in store.shards for each in await store.take_unwanted(shard, 100, LEASE_S)]


async def scanned(world: World) -> list[PictureRecord]:
    cursor, records = await world.stores.pictures.scan()
    found = list(records)
    while cursor:
        cursor, records = await world.stores.pictures.scan(cursor)
        found += records
    return found


def plain(records: Sequence[PictureRecord]) -> list[PictureRecord]:
    """The records without the stamps of the store, in order."""
    bare = [each.model_copy(update={"created_at": 0.0, "expires_at": 0.0}) for each in records]
    return sorted(bare, key=lambda each: (str(each.job_id), each.name))


async def test_a_job_owes_its_pictures_once_and_its_records_stay(world: World) -> None:
    store, job = world.stores.pictures, new("b" * 64, "acme")
    lease = await claimed(world, job)
    assert await store.owed() == 0
    pictures = (record(job, 1), record(job, 2))
    assert (await ended(world, job, *pictures, lease=lease)).applied
    assert not (await ended(world, job, record(job, 3), lease=lease)).applied
    assert await store.owed() == 1
    assert await taken(world) == [job.id]
    assert await taken(world) == [], "taken: not due again before the lease ends"
    assert await store.owed() == 1, "owed until it is settled"
    read = await store.read([job.id])
    assert plain(read) == plain(pictures)
    at = (await world.stores.jobs.get("acme", job.id)).finished_at
    assert at is not None
    assert {each.created_at for each in read} == {at}, "by the clock of the store, as the job's end"
    assert {each.expires_at for each in read} == {at + KEEP_S}
    assert [each.embedding for each in read] == [each.embedding for each in pictures]
    assert await store.settle([job.id]) == []
    assert await store.owed() == 0
    assert plain(await store.read([job.id])) == plain(pictures), "an index is rebuilt from them"


async def claimed(world: World, job: NewJob) -> Lease:
    submitted = await world.stores.jobs.submit(job)
    claim = await world.stores.jobs.claim(submitted.job.message(), "w1")
    assert isinstance(claim, Granted)
    return claim.lease


@pytest.mark.parametrize("end", ["without pictures", "fails", "expires", "hit", "joined"])
async def test_what_draws_no_picture_owes_none(world: World, end: str) -> None:
    jobs, job = world.stores.jobs, new("c" * 64)
    if end == "hit":
        await jobs.submit(job, result())
        assert await world.stores.pictures.owed() == 0
        return
    lease = await led(jobs, job)
    if end == "joined":
        follower = new(job.key)
        await jobs.submit(follower)
        await ended(world, job, record(job), lease=lease)
        assert await status(jobs, follower.id) is JobStatus.SUCCEEDED
        assert await taken(world) == [job.id], "the follower shows the same images, in the same scope"
        return
    outcome = {"without pictures": result(), "fails": FAILURE, "expires": None}[end]
    pictures = () if end == "without pictures" else (record(job),)
    (answer,) = await jobs.end_many([End(lease, outcome, pictures=pictures)])
    assert answer == Finished(applied=True)
    assert await world.stores.pictures.owed() == 0
    assert await scanned(world) == []


async def test_a_void_lease_records_nothing(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    lease = await led(jobs, job)
    await jobs.cancel("public", job.id)
    assert not (await ended(world, job, record(job), lease=lease)).applied
    assert await world.stores.pictures.owed() == 0
    assert await scanned(world) == []


async def test_a_job_that_its_leader_ended_in_the_same_call_records_nothing(world: World) -> None:
    jobs, leader = world.stores.jobs, new()
    first = await led(jobs, leader)
    follower = new(leader.key)
    message = (await jobs.submit(follower)).job.message()
    claim = await jobs.claim(message, "w2")
    assert isinstance(claim, Granted)
    answers = await jobs.end_many(
        [
            End(first, result(), pictures=(record(leader, 1),)),
            End(claim.lease, result(), pictures=(record(follower, 2),)),
        ]
    )
    assert answers == [Finished(applied=True), Finished(applied=False)]
    assert plain(await scanned(world)) == plain([record(leader, 1)])
    assert await taken(world) == [leader.id]


async def test_many_jobs_of_one_call_owe_each_their_own(world: World) -> None:
    jobs = [new(key) for key in keys(80)]
    ends = [
        End(await led(world.stores.jobs, job), result(), pictures=(record(job, n),) if n % 2 else ())
        for n, job in enumerate(jobs)
    ]
    assert await world.stores.jobs.end_many(ends) == [Finished(applied=True)] * 80
    assert sorted(await taken(world)) == sorted(job.id for job in jobs[1::2])
    records = await world.stores.pictures.read(job.id for job in jobs)
    assert plain(records) == plain([record(job, n) for n, job in enumerate(jobs) if n % 2])


async def test_a_job_rebuilt_from_its_message_owes_its_pictures(world: World) -> None:
    """The store has lost everything; the message on the queue has not."""
    jobs, job = world.stores.jobs, new("d" * 64)
    message = (await jobs.submit(new("d" * 63 + "0"))).job.message()
    claim = await jobs.claim(message.model_copy(update={"job_id": job.id, "key": job.key}), "w")
    assert isinstance(claim, Granted)
    assert (await ended(world, job, record(job), lease=claim.lease)).applied
    assert await taken(world) == [job.id]


async def test_a_taker_that_dies_is_replaced_and_the_oldest_go_first(world: World) -> None:
    jobs = [new(key) for key in keys(3, "7")]
    for job in jobs:
        await ended(world, job, record(job))
        world.advance(1)
    assert await taken(world, 2) == [job.id for job in jobs[:2]]
    world.advance(LEASE_S + 1)
    assert await taken(world) == [jobs[2].id, *(job.id for job in jobs[:2])]


async def test_a_lease_of_a_clock_that_was_ahead_ends(world: World) -> None:
    job = new()
    await ended(world, job, record(job))
    world.advance(7200)
    assert await taken(world) == [job.id]
    world.advance(-7200)
    assert await taken(world) == [job.id]
    assert await taken(world) == []


async def test_records_expire_and_what_is_owed_of_them_too(world: World) -> None:
    old, newer = (new(key) for key in keys(2, "4"))
    await ended(world, old, record(old))
    world.set_clock(KEEP_S + 1)
    assert await world.stores.pictures.read([old.id]) == []
    assert await world.stores.pictures.settle([old.id]) == [old.id]
    assert await taken(world) == []
    # Where nobody takes anything, the end of another job clears it away.
    await ended(world, newer, record(newer))
    world.set_clock(KEEP_S + 1)
    again = new("4" * 64)
    await ended(world, again, record(again))
    assert await world.stores.pictures.owed() == 1


async def test_an_end_wakes_who_listens(world: World) -> None:
    wakes = world.stores.pictures.wakes()

    async def first() -> str:
        return await anext(wakes)

    waiting = asyncio.create_task(first())
    while not waiting.done():
        job = new("9" * 64)
        await ended(world, job, record(job))
        await asyncio.wait({waiting}, timeout=0.05)
    assert waiting.result() == Layout(world.settings.shards).name("9")
    await wakes.aclose()  # type: ignore[attr-defined]


async def test_a_scan_reads_every_record_once_in_pages(world: World) -> None:
    made = [new(key) for key in keys(40)]
    for n, job in enumerate(made):
        await ended(world, job, record(job, n))
    for n in range(1200):  # other keys lie between
        await world.stores.idempotency.reserve(
            "public", str(n), Reservation(fingerprint="f" * 64, job_id="x")
        )
    assert plain(await scanned(world)) == plain([record(job, n) for n, job in enumerate(made)])
    for stranger in ("x", "0", "0:x", "7f:0", ":0"):
        with pytest.raises(ValueError, match="cursor"):
            await world.stores.pictures.scan(stranger)


async def test_a_record_that_cannot_be_read_hides_no_other(world: World) -> None:
    job = new()
    await ended(world, job, record(job, 1), record(job, 2))
    client = connect(world.settings.redis_url, 20.0)
    await client.hset(f"{Layout(world.settings.shards).job_prefix(job.id)}picture:{job.id}", name(1), "{")
    await client.aclose()
    assert plain(await world.stores.pictures.read([job.id])) == plain([record(job, 2)])


async def test_a_field_of_a_newer_version_is_kept(world: World) -> None:
    job = new()
    newer = PictureRecord.model_validate({**record(job).model_dump(), "aesthetics": 0.5})
    await ended(world, job, newer)
    (read,) = await world.stores.pictures.read([job.id])
    assert read.model_extra == {"aesthetics": 0.5}


async def test_deletions_are_owed_until_they_are_settled(world: World) -> None:
    store = world.stores.pictures
    names = [f"{digit:x}" + name(number)[1:] for digit in range(16) for number in range(3)]
    await store.forget("acme", names)
    await store.forget(SHARED, names[:1])
    assert await store.owed() == 49
    found = await unwanted(world.stores)
    assert {(each.scope, each.name) for each in found} == {
        *(("acme", each) for each in names),
        (SHARED, names[0]),
    }
    assert await unwanted(world.stores) == []
    await store.settle_unwanted(found[:40])
    assert await store.owed() == 9
    world.advance(LEASE_S + 1)
    assert sorted(await unwanted(world.stores)) == sorted(found[40:])
    world.set_clock(world.settings.blob_retention_s + 1)
    assert await store.owed() == 0, "an index that was not told has let them expire"


async def test_erasing_a_job_owes_the_deletion_of_its_pictures(world: World) -> None:
    store, job, other = world.stores.pictures, new("1" * 64), new("1" * 63 + "2")
    shared = [record(job, n, scope=SHARED) for n in (2, 3)]
    await ended(world, job, record(job, 1), *shared)
    await ended(world, other, record(other, 4))
    assert sorted(await taken(world)) == sorted([job.id, other.id])
    assert len(await store.read([job.id])) == 3, "the index reads them, and is slow"
    assert await store.erase(job.id, {name(1), name(2)}) == 3
    assert await store.read([job.id]) == []
    assert await store.settle([job.id, other.id]) == [job.id], "what it has added by now must go again"
    found = {(each.scope, each.name) for each in await unwanted(world.stores)}
    assert found == {("public", name(1)), (SHARED, name(3))}, "another tenant shares the second"
    assert await store.erase(job.id) == 0
    assert plain(await scanned(world)) == plain([record(other, 4)])


async def test_vectors_are_little_endian_halves_in_base64(world: World) -> None:
    job = new()
    await ended(world, job, record(job))
    (read,) = await world.stores.pictures.read([job.id])
    assert read.embedding is not None
    assert struct.unpack("<4e", base64.b64decode(read.embedding.vector))[:3] == (0.5, -0.5, 0.5)
