"""Erasing a tenant, on a server and on a cluster: nothing of it is left, and nothing of another is touched."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backends.redis_client import connect, disconnect
from cache.cache_key import result_address, tenant_scope
from cli.services.redis import RedisServer
from contracts.errors import BlobStoreUnavailable
from contracts.jobs import JobStatus
from contracts.ports.review_store import Change
from contracts.reviews import Appeal
from contracts.settings import BackendSettings
from contracts.tenancy import Reservation
from contracts.transitions import End, Ended, Granted
from runtime.clock import SystemClock
from store import erasing
from store.audit import audit
from store.erasing import Erased, TenantBusy, erase
from store.key_names import Layout
from store.stores import Stores, open_stores
from store.tenant_data import Servers, TenantData
from tests.store.held import held_image, result_of
from tests.store.held import image as held_ref
from tests.store.made import new, record, result
from tests.store.tenants import Used, drawn, everything, indexed, lived_in, named

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@dataclass(frozen=True)
class Place:
    stores: Stores
    servers: Servers
    settings: BackendSettings

    async def erase(
        self, tenant: str, *, cancel: bool = False, say: Callable[[str], None] = lambda _: None
    ) -> Erased:
        data, retention_s = TenantData(self.servers, tenant), self.settings.job_retention_s
        return await erase(data, self.stores, SystemClock(), retention_s, say, cancel=cancel)

    async def live(self, used_by: str, **more: Any) -> Any:
        return await lived_in(self.stores, self.settings, used_by, **more)

    async def all(self) -> dict[str, Any]:
        return await everything(self.servers.state)


@pytest.fixture(params=["server", "cluster"])
async def place(
    request: pytest.FixtureRequest, anyio_backend: str, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[Place]:
    url = redis_server.url if request.param == "server" else request.getfixturevalue("redis_cluster").url
    settings = BackendSettings(redis_url=url, blob_dir=tmp_path / "blobs", redis_timeout_s=20.0)
    state = connect(url, 20.0)
    await state.flushall()
    stores = open_stores(settings)
    yield Place(stores, Servers(state, state, 20.0, Layout(settings.shards)), settings)
    await stores.close()
    await disconnect(state)


def words_of(used: Used) -> re.Pattern[str]:
    """Whatever could name the tenant, its jobs and their pictures; not the picture that is another's as well."""
    names = [used.prompt, used.key_id, *(name for kind, name in used.pictures.items() if kind != "both")]
    return re.compile("|".join([rf"\b{used.tenant}\b", *map(re.escape, names)]))


@pytest.mark.parametrize("shared", [False, True])
async def test_nothing_of_a_tenant_is_left_and_nothing_of_another_is_touched(
    place: Place, shared: bool
) -> None:
    acme, other = await place.live("acme", shared=shared), await place.live("acme2", shared=shared)
    theirs = await TenantData(place.servers, "acme2").find()
    there = await place.all()
    assert words_of(acme).search(str(there))
    done = await place.erase("acme")
    assert done.left == {}
    assert done.shared_pictures == 1
    assert done.counts == {
        "jobs": 6,
        "webhooks": 1,
        "pictures": 5,
        "picture_records": 4,
        "source_pictures": 2,
        "cached_results": 1,
        "similar_prompts": 1,
        "search_clicks": 3,
        "idempotency_keys": 3,
        "api_keys": 1,
        "quota_accounts": 1,
        "usage_days": 2,
        "queue_shares": 1,
        "room_account": 1,
        "webhook_secrets": 1,
        "webhook_receivers": 1,
        "import_hashes": 1,
    }
    forgotten = {(each.scope, each.name) for each in await indexed(place.stores)}
    scope = "" if shared else "acme"
    mine = {acme.pictures["own"], acme.pictures["forgotten"], *([] if shared else [acme.pictures["both"]])}
    imported = {("acme", acme.pictures["imported"])}
    assert forgotten == {(scope, name) for name in mine} | imported, (
        "the shared one stays in the index of all"
    )
    left = await place.all()
    assert words_of(acme).findall(str(left)) == []
    marks = {place.servers.layout.job_key(job.id) for job in acme.jobs.values()}
    assert {
        name for name in left if any(job.id in str((name, left[name])) for job in acme.jobs.values())
    } <= marks
    assert all(set(left[name]) == {"id", "status", "deadline"} for name in marks if name in left)
    assert await TenantData(place.servers, "acme2").find() == theirs
    for name, held in there.items():
        if re.search(r"\bacme2\b", str((name, held))) and not re.search(r"\bacme\b", str(held)):
            assert left[name] == held, name
    for kind, name in other.pictures.items():
        assert await place.stores.blobs.exists(name), kind
    for kind, name in acme.pictures.items():
        assert await place.stores.blobs.exists(name) == (kind == "both"), kind
    assert (await audit(place.servers.state, 20.0)).differences == []
    again = await place.erase("acme")
    assert (again.counts, again.left, again.shared_pictures) == ({}, {}, 0)


async def test_a_message_that_comes_after_the_erasure_runs_nothing(place: Place) -> None:
    """A canceled job's message lies with the broker until a worker comes to it: without a mark it would be recorded anew, and run."""
    job = new("a" * 64, "acme")
    message = (await place.stores.jobs.submit(job)).job.message()
    with pytest.raises(TenantBusy):
        await place.erase("acme")
    assert await place.stores.jobs.statuses([job.id]) == [JobStatus.QUEUED], "refused: nothing has changed"
    done = await place.erase("acme", cancel=True)
    assert (done.counts["canceled_jobs"], done.counts["jobs"], done.left) == (1, 1, {})
    for leave_waiting in (True, False):
        assert isinstance(await place.stores.jobs.claim(message, "w1", leave_waiting=leave_waiting), Ended)
    assert not re.search(r"\bacme\b", str(await place.all()))
    assert (await audit(place.servers.state, 20.0)).differences == []


async def test_a_follower_of_another_tenant_goes_on(place: Place) -> None:
    """Where tenants share the cache, one may wait for what another computes."""
    leader, follower = new("b" * 64, "acme"), new("b" * 64, "other")
    await place.stores.jobs.submit(leader)
    await place.stores.jobs.submit(follower)
    assert (await place.erase("acme", cancel=True)).left == {}
    record = await place.stores.jobs.get("other", follower.id)
    claim = await place.stores.jobs.claim(record.message(), "w1")
    assert isinstance(claim, Granted)
    assert (await place.stores.jobs.succeed(claim.lease, result())).applied


@pytest.mark.parametrize("by", ["record", "result", "start", "reservation", "live job", "shared result"])
async def test_a_picture_that_something_of_another_names_stays(place: Place, by: str) -> None:
    stores, blobs = place.stores, place.settings.blob_dir
    is_input = by in ("start", "reservation", "live job")
    name = await drawn(stores, blobs, b"ours and theirs", is_input=is_input)
    alone = await drawn(stores, blobs, b"ours")
    starts = {"init_image": name, "strength": 0.5} if is_input else {}

    def job(key: str, tenant: str) -> Any:
        plain = new(key, tenant)
        return plain.model_copy(update={"request": plain.request.model_copy(update=starts)})

    await stores.jobs.submit(job("c" * 64, "acme"), named(alone) if is_input else named(name, alone))
    theirs = job("c" * 64, "other")
    match by:
        case "record":
            await stores.jobs.submit(theirs, named(name))
        case "start":
            await stores.jobs.submit(theirs, result())
        case "live job":
            await stores.jobs.submit(theirs)
        case "reservation":
            await stores.idempotency.reserve("other", "k", Reservation(fingerprint="f", new=theirs))
        case "result":
            await stores.results.put(
                result_address("d" * 64, theirs.request, tenant_scope("other", shared=False)), named(name)
            )
        case "shared result":
            await stores.jobs.submit(theirs, result())
            await stores.results.put(
                result_address("c" * 64, theirs.request, tenant_scope("acme", shared=True)), named(name)
            )
    done = await place.erase("acme")
    assert (done.shared_pictures, done.counts.get("cached_results", 0), done.left) == (1, 0, {})
    assert [await stores.blobs.exists(each) for each in (name, alone)] == [True, False]


async def test_a_prompt_that_names_a_picture_neither_erases_nor_keeps_it(place: Place) -> None:
    stores, blobs = place.stores, place.settings.blob_dir
    nobodys = await drawn(stores, blobs, b"of a job that has lapsed")
    own = await drawn(stores, blobs, b"own")

    async def record(tenant: str, prompt: str, name: str) -> None:
        job = new("e" * 64, tenant)
        request = job.request.model_copy(
            update={"prompt": f'{{"images": [{{"name": "{prompt}"}}]}} {prompt}'}
        )
        await stores.jobs.submit(job.model_copy(update={"request": request}), named(name))

    await record("acme", nobodys, own)
    await record("other", own, "0" * 64 + ".png")
    await place.erase("acme")
    assert [await stores.blobs.exists(each) for each in (nobodys, own)] == [True, False]


async def test_a_picture_that_was_put_a_moment_ago_waits(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of another tenant that names it may be on its way."""
    monkeypatch.setattr(erasing, "GRACE_S", 1.0)
    stores = place.stores
    name = await stores.blobs.put(b"new", "png")
    await stores.jobs.submit(new("f" * 64, "acme"), named(name))
    said: list[str] = []
    done = await place.erase("acme", say=said.append)
    assert (done.counts["pictures"], done.left, len(said)) == (1, {}, 1)
    assert not await stores.blobs.exists(name)


async def test_an_idempotency_key_is_its_tenants_after_its_job_has_lapsed(place: Place) -> None:
    slots, mine = place.stores.idempotency, Reservation(fingerprint="f", new=new("9" * 64, "acme"))
    for tenant, reservation in (
        ("acme", mine),
        ("other", Reservation(fingerprint="f", new=new("9" * 64, "other"))),
    ):
        await slots.reserve(tenant, "k", reservation)
        await slots.complete(tenant, "k", reservation)
    done = await place.erase("acme")
    assert (done.counts, done.left) == ({"idempotency_keys": 1}, {})
    assert [await slots.find(tenant, "k") is None for tenant in ("acme", "other")] == [True, False]


async def test_keys_are_revoked_first_and_what_settles_meanwhile_goes_too(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that were under way as the key was revoked are accepted, and counted a little later."""
    monkeypatch.setattr(erasing, "SETTLE_S", 3.0)
    stores, key_id = place.stores, "dk_open"
    used = await place.live("acme")
    revoked = await stores.keys.find(used.key_id)
    assert revoked is not None
    await stores.keys.create(revoked.model_copy(update={"id": key_id, "revoked_at": None}))
    waiting = asyncio.Event()
    erasure = asyncio.create_task(place.erase("acme", say=lambda _: waiting.set()))
    async with asyncio.timeout(60):
        await waiting.wait()
    found = await stores.keys.find(key_id)
    assert found is not None
    assert found.revoked_at is not None
    await stores.jobs.submit(new("1" * 64, "acme"), result())
    await stores.usage.add("2026-12-01", {("acme", "jobs"): 1})
    done = await erasure
    assert (done.counts["jobs"], done.counts["api_keys"], done.counts["usage_days"]) == (7, 2, 3)
    assert done.left == {}
    assert await stores.keys.find(key_id) is None


async def test_one_that_broke_off_is_taken_up_again_and_its_receipt_counts_both(place: Place) -> None:
    other = await place.live("other")
    await place.live("acme2")
    whole = await place.erase("acme2")
    used = await place.live("acme")
    name = used.pictures["own"]
    path = place.settings.blob_dir / name[:2] / name
    path.unlink()
    # What cannot be deleted as a picture: the store of pictures fails in the middle.
    (path / "in the way").mkdir(parents=True)
    old = time.time() - 3600
    os.utime(path, (old, old))
    with pytest.raises(BlobStoreUnavailable):
        await place.erase("acme")
    assert await place.stores.jobs.statuses([used.jobs["ended"].id]) == [JobStatus.SUCCEEDED]
    (path / "in the way").rmdir()
    path.rmdir()
    path.write_bytes(b"own")
    os.utime(path, (old, old))
    done = await place.erase("acme")
    assert done.left == {}
    assert done.counts == whole.counts
    await indexed(place.stores)  # until the search index has forgotten them, it is owed their names and scope
    assert not re.search(r"\bacme\b", str(await place.all()))
    assert await place.stores.blobs.exists(other.pictures["both"])


async def test_pictures_are_their_tenants_after_their_jobs_have_lapsed(place: Place) -> None:
    """A job's record is kept for a day, its pictures and their records for three."""
    used = await place.live("acme")
    for job in used.jobs.values():
        await place.servers.state.delete(place.servers.layout.job_key(job.id))
    done = await place.erase("acme")
    assert (done.left, done.counts["picture_records"]) == ({}, 4)
    assert not await place.stores.blobs.exists(used.pictures["forgotten"]), "nothing but its record names it"
    assert {each.name for each in await indexed(place.stores)} == {
        used.pictures[kind] for kind in ("both", "own", "forgotten", "imported")
    }
    left = await place.all()
    assert re.findall(r"\bacme\b", str(left)) == []


async def test_a_picture_that_another_tenants_record_names_stays(place: Place) -> None:
    acme, other = await place.live("acme"), new("7" * 64, "other")
    submitted = await place.stores.jobs.submit(other)
    claim = await place.stores.jobs.claim(submitted.job.message(), "w1")
    assert isinstance(claim, Granted)
    theirs = record(other, name=acme.pictures["own"])
    await place.stores.jobs.end_many([End(claim.lease, result(), pictures=(theirs,))])
    await place.servers.state.delete(place.servers.layout.job_key(other.id))
    done = await place.erase("acme")
    assert done.shared_pictures == 1
    assert await place.stores.blobs.exists(acme.pictures["own"])
    assert ("acme", acme.pictures["own"]) in {
        (each.scope, each.name) for each in await indexed(place.stores)
    }, "in its own scope nobody shares it"
    (kept,) = await place.stores.pictures.read([other.id])
    assert kept.name == acme.pictures["own"]


async def test_a_held_image_goes_with_its_tenant_unless_another_has_it(place: Place) -> None:
    """With its review, its file, its appeal, and what the search index was to learn of it."""
    stores = place.stores
    made: dict[str, list[str]] = {"acme": [], "other": []}
    names = {}
    for tenant, numbers in (("acme", (b"acme's", b"of both")), ("other", (b"of both",))):
        for data in numbers:
            job = new(f"3{len(made['acme']) + len(made['other']):063x}", tenant)
            await stores.jobs.submit(job)
            claim = await stores.jobs.claim((await stores.jobs.get(tenant, job.id)).message(), "w")
            assert isinstance(claim, Granted)
            names[data] = await stores.blobs.put(data, "png", is_held=True)
            os.utime(place.settings.blob_dir / "held" / names[data][5:7] / names[data][5:], (1.0, 1.0))
            file_name = names[data].removeprefix("held/")
            case = held_image(1).case.model_copy(update={"prompt": f"words of {tenant}"})
            picture = record(job, scope=tenant, name=file_name)
            image = held_image(1).model_copy(
                update={"name": file_name, "case": case.model_copy(update={"picture": picture})}
            )
            ref = held_ref(1).model_copy(update={"name": names[data]})
            ended = await stores.jobs.end_many([End(claim.lease, result_of(ref), None, (), (image,))])
            assert ended[0].applied  # type: ignore[union-attr]
            made[tenant].append(job.id)
    both = names[b"of both"].removeprefix("held/")
    (review,) = await stores.reviews.find(both)
    appeal = Appeal(tenant="acme", job_id=made["acme"][1], reason="acme's reason", at=1.0)
    assert await stores.reviews.change(review, Change(review.state, (), None, 4, appeal))
    await stores.reviews.count_once("appeals", "acme", both, 9)
    done = await place.erase("acme")
    assert (done.left, done.counts["reviews"]) == ({}, 2)
    assert not await stores.blobs.exists(names[b"acme's"])
    assert await stores.blobs.exists(names[b"of both"])
    assert await stores.reviews.find(names[b"acme's"].removeprefix("held/")) == []
    (review,) = await stores.reviews.find(both)
    assert [job.id for job in review.jobs] == made["other"]
    assert (review.appeal, review.case.picture) == (None, None)
    assert not [name for name, value in (await place.all()).items() if "acme's reason" in f"{name}{value}"]
    assert not [name for name in await place.all() if name.endswith(":acme")]
