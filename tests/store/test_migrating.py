"""The way of the job store from one layout to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from backends.redis_client import connect, disconnect
from contracts.errors import StoreUnavailable
from contracts.ids import SHARDS
from contracts.jobs import JobStatus, Webhook
from contracts.tenancy import Charge, Limits
from contracts.transitions import End, Granted
from store import migrating
from store.audit import audit
from store.key_names import PREFIX, Layout, shard_prefix
from store.layout import LAYOUT_KEY, MIGRATION_KEY, LayoutMismatch, StoreLayout, require_layout
from store.migrating import MigrationRefused
from store.stores import Stores
from tests.store.held import held_image
from tests.store.layouts import BEFORE, TIMEOUT_S, contents, settings_of
from tests.store.layouts import client as client
from tests.store.layouts import opened as opened
from tests.store.layouts import url as url
from tests.store.made import FAILURE, imported, keys, led, name, new, record, result, taken

KINDS = ("job", "flight", "hook", "picture", "imported", "importers", "review", "held")


async def lived_in(stores: Stores) -> dict[str, Any]:
    """Jobs of every state, on all digits of the ids, with followers, leases, messages and webhooks owed. Answers what to look for."""
    jobs = stores.jobs
    hooked = Webhook(url="https://receiver.example/", events=("job.succeeded", "job.failed"))
    for key in keys(16):
        done = new(key, "acme").model_copy(update={"webhook": hooked})
        await jobs.submit(done)
        claim = await jobs.claim((await jobs.get("acme", done.id)).message(), "w1")
        assert isinstance(claim, Granted)
        await jobs.end_many(
            [End(claim.lease, result(), None, (record(done, 1),), (held_image(2, severity=3),))]
        )
    await stores.pictures.forget("acme tenant", [f"{digit}{name(2)[1:]}" for digit in SHARDS])
    for digit in SHARDS:
        await stores.imports.add(imported(f"{digit}{name(3)[1:]}"), f"{int(digit, 16):064x}")
    failed, canceled, expired = (new(key) for key in keys(3, "5e9"))
    await jobs.fail(await led(jobs, failed), FAILURE)
    await jobs.submit(canceled)
    await jobs.cancel("public", canceled.id)
    await jobs.expire(await led(jobs, expired))
    running = [await led(jobs, new(key)) for key in keys(16)]
    await jobs.progress(running[0], 1, 4)
    waiting, followed = [new(key) for key in keys(32)], list[str]()
    for number, job in enumerate(waiting):
        await jobs.submit(job)
        if number % 2:
            await jobs.confirm(job.id)
        follower = new(job.key, "acme")
        await jobs.submit(follower)
        followed.append(follower.id)
    await stores.quotas.admit("dk_key", Limits(concurrent_jobs=5), Charge(job_id=waiting[0].id, images=1))
    calls = [call for shard in jobs.shards for call in await stores.webhooks.take(shard, 1, 60.0)]
    return {
        "running": running,
        "waiting": [job.id for job in waiting],
        "followers": followed,
        "ended": {failed.id: "failed", canceled.id: "canceled", expired.id: "expired"},
        "calls": calls,
        "statuses": {
            job.id: job.status.value for tenant in ("public", "acme") for job in await jobs.list(tenant, 1000)
        },
    }


async def migrated(client: Redis, shards: int) -> None:
    await migrating.survey(client, TIMEOUT_S)
    migration = await migrating.begun(client, shards, TIMEOUT_S)
    assert migration is not None
    await migrating.move(client, migration, TIMEOUT_S, lambda _: None)
    await migrating.end(client, migration, TIMEOUT_S)


@pytest.mark.parametrize(("before", "after"), [(16, 1), (1, 16), (4, 8)])
async def test_jobs_move_with_all_that_is_theirs(
    client: Redis, opened: Callable[[int], Stores], before: int, after: int
) -> None:
    old = opened(before)
    known = await lived_in(old)
    for shard in old.jobs.shards:
        await old.jobs.steady(shard, None)
    was = await contents(client)
    await migrated(client, after)
    prefixes = set(Layout(after).prefixes)
    now = await contents(client)
    places = {name.partition("}:")[0] + "}:" for name in now if name.startswith(f"{PREFIX}{{s")}
    assert places <= prefixes, sorted(name for name in now if name[:14] not in prefixes)
    assert now["counts"] == was["counts"]
    assert await client.exists(MIGRATION_KEY) == 0
    marks = [await client.exists(f"{shard_prefix(shard)}mark") for shard in SHARDS]
    assert sum(marks) == after
    # What has nothing to do with shards stays as it was.
    assert {name: each for name, each in now.items() if "{quota" in name} == {
        name: each for name, each in was.items() if "{quota" in name
    }

    stores = opened(after)
    jobs = stores.jobs
    found = {
        job.id: job.status.value for tenant in ("public", "acme") for job in await jobs.list(tenant, 1000)
    }
    assert found == known["statuses"]
    assert (await audit(client, TIMEOUT_S)).differences == []
    total, places_ahead = await jobs.waiting("m", known["waiting"])
    assert total == 32
    assert sorted(each for each in places_ahead if each is not None) == list(range(32))
    assert await jobs.renew(known["running"]) == [], "the leases hold"
    assert (await jobs.succeed(known["running"][0], result())).applied
    jobs.skew_s = 6.0  # type: ignore[attr-defined]
    stale = [message.job_id for shard in jobs.shards for message in (await jobs.sweep(shard, 100))[0]]
    assert sorted(stale) == sorted(known["waiting"][::2]), (
        "those whose message is not known to be with the broker"
    )
    for call in known["calls"]:
        duty = await stores.webhooks.begin(call, 5.0)
        assert duty is not None
        assert duty.job.id == call.job_id
    owed = [call for shard in jobs.shards for call in await stores.webhooks.take(shard, 100, 60.0)]
    assert len(owed) + len(known["calls"]) == 16
    pictures = stores.pictures
    unindexed = [job_id for shard in pictures.shards for job_id in await pictures.take(shard, 100, 60.0)]
    assert len(set(unindexed)) == 32
    assert len(await pictures.read(unindexed)) == 32
    hashes = [f"{int(digit, 16):064x}" for digit in SHARDS]
    assert len(await stores.imports.known("acme", hashes)) == 16
    assert await stores.imports.in_use(f"7{name(3)[1:]}")
    assert await stores.imports.remove("acme", f"7{name(3)[1:]}")
    assert not await stores.imports.in_use(f"7{name(3)[1:]}")
    unwanted = [each for shard in pictures.shards for each in await pictures.take_unwanted(shard, 100, 60.0)]
    assert {(each.scope, each.name[0]) for each in unwanted} - {("acme", "7")} == {
        ("acme tenant", digit) for digit in SHARDS
    }
    await pictures.settle(unindexed)
    await pictures.settle_unwanted(unwanted)
    assert await pictures.owed() == 0
    # The rest of the way: each is taken, in its order, and its follower ends with it.
    for job in await taken(jobs, 100):
        await jobs.succeed(job.lease, result())
    assert await jobs.statuses(known["waiting"]) == [JobStatus.SUCCEEDED] * 32
    assert await jobs.statuses(known["followers"]) == [JobStatus.SUCCEEDED] * 32


async def test_there_and_back_is_as_it_was(client: Redis, opened: Callable[[int], Stores]) -> None:
    await lived_in(opened(16))
    was = await contents(client)
    await migrated(client, 1)
    await migrated(client, 16)
    assert await contents(client) == was


async def test_what_an_older_version_wrote_since_is_found_and_moved(
    url: str, client: Redis, opened: Callable[[int], Stores]
) -> None:
    """It knows sixteen shards, and no document. Here it takes up a key that has a computation, too."""
    shared = "7" * 64
    first, late = new(shared), new(shared)
    jobs = opened(1).jobs
    assert await jobs.take_sweeper_lease("me", 60.0)
    for job in (first, late):
        await jobs.submit(job)
    await client.delete(LAYOUT_KEY)
    old = opened(BEFORE).jobs
    await client.set(LAYOUT_KEY, StoreLayout(shards=BEFORE).to_json())
    theirs = [new(key) for key in (shared, shared, *keys(16))]
    for job in theirs:
        await old.submit(job)
    await client.set(LAYOUT_KEY, StoreLayout(shards=1).to_json())

    with pytest.raises(LayoutMismatch, match="An older version has written"):
        await require_layout(settings_of(url, 1))
    with pytest.raises(StoreUnavailable, match="An older version has written"):
        await opened(1).jobs.submit(new())
    assert not await jobs.take_sweeper_lease("another", 5.0)
    with pytest.raises(StoreUnavailable, match="An older version has written"):
        await jobs.take_sweeper_lease("me", 60.0)
    await migrated(client, 1)
    assert await migrating.begun(client, 1, TIMEOUT_S) is None
    await require_layout(settings_of(url, 1))
    for mine in await taken(jobs, 100):
        await jobs.succeed(mine.lease, result())
    every = [job.id for job in (first, late, *theirs)]
    assert await jobs.statuses(every) == [JobStatus.SUCCEEDED] * len(every)
    assert (await audit(client, TIMEOUT_S)).differences == []


class Stopped(Exception):
    pass


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_one_that_breaks_off_anywhere_is_taken_up(
    url: str, client: Redis, opened: Callable[[int], Stores], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped at each of its calls in turn, and begun again each time."""
    await lived_in(opened(16))
    was = await contents(client)
    monkeypatch.setattr(migrating, "PAGE", 10)
    calls = limit = 0
    pool: Any = client.connection_pool
    connection = pool.connection_class
    send = connection.send_packed_command

    async def counted(self: Any, command: Any, check_health: bool = True) -> None:
        nonlocal calls
        calls += 1
        if calls > limit:
            raise Stopped
        await send(self, command, check_health)

    stops = 0
    while True:
        # Each try gets further: what was done is not done again.
        limit += 3
        calls = 0
        moving = connect(url, TIMEOUT_S)
        monkeypatch.setattr(connection, "send_packed_command", counted)
        try:
            await migrated(moving, 1)
        except Stopped:
            stops += 1
        else:
            break
        finally:
            monkeypatch.setattr(connection, "send_packed_command", send)
            await disconnect(moving)
        if await client.exists(MIGRATION_KEY):
            with pytest.raises(LayoutMismatch, match="has not ended"):
                await require_layout(settings_of(url, 1))
            with pytest.raises(MigrationRefused, match="to 1 shards has begun"):
                await migrating.begun(client, 2, TIMEOUT_S)
    assert stops > 20
    await migrated(client, 16)
    assert await contents(client) == was


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_what_ends_as_it_is_moved_is_not_kept_for_ever(
    client: Redis, opened: Callable[[int], Stores], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is over between the reading of a key and that of what is left to it."""
    await lived_in(opened(16))

    def late(self: Any, key: str) -> Any:
        return self.eval("redis.call('PEXPIRE', KEYS[1], 0); return redis.call('PTTL', KEYS[1])", 1, key)

    monkeypatch.setattr(Pipeline, "pttl", late)
    await migrated(client, 1)
    found = await contents(client)
    whole = [name for name in found if name.partition("}:")[2].partition(":")[0] in KINDS]
    assert {name.partition("}:")[0] for name in whole} <= {f"{PREFIX}{{s0"}
    assert [name for name in whole if not found[name][1]] == []


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_a_key_that_is_not_known_is_not_left_behind(
    client: Redis, opened: Callable[[int], Stores]
) -> None:
    await opened(16).jobs.submit(new("7" * 64))
    await client.set(f"{shard_prefix('7')}ballots:x", "1")
    with pytest.raises(MigrationRefused, match="ballots:x is of a version that this one does not know"):
        await migrating.survey(client, TIMEOUT_S)
