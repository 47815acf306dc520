"""A tenant that has used everything, and all that is in a Redis, for those who look at what is left of it."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.redis_client import pages
from cache.cache_key import result_address, result_pattern, tenant_scope
from contracts.ids import shard_of
from contracts.jobs import JobResult, NewJob, Preview, Webhook
from contracts.pictures import SHARED, Embedding
from contracts.ports.picture_outbox import Unwanted
from contracts.settings import BackendSettings
from contracts.similar import SimilarPrompt
from contracts.tenancy import ApiKey, Charge, Limits, Reservation, Scope
from contracts.transitions import End, Finished, Granted
from contracts.webhooks import EVENTS, Attempt, DeliveryStatus
from store.stores import Stores
from tests.store.made import FAILURE, imported, new, record, result

_numbers = itertools.count()
LIMITS = Limits(requests_per_minute=6, burst=100, concurrent_jobs=8, images_per_day=100)
OLD_S = 3600.0
"""Keys were revoked, and pictures drawn, so long ago."""
HOOK = Webhook(url="https://receiver.example/hook", events=EVENTS)


@dataclass(frozen=True)
class Used:
    """What a tenant has left: ids of its jobs by how they ended, and names of its pictures."""

    tenant: str
    prompt: str
    jobs: dict[str, NewJob]
    pictures: dict[str, str]
    key_id: str


async def drawn(stores: Stores, blobs: Path, data: bytes, *, is_input: bool = False) -> str:
    """A picture that was put long ago."""
    name = await stores.blobs.put(data, "png", is_input=is_input)
    folder, _, file = name.rpartition("/")
    os.utime(blobs / folder / file[:2] / file, (time.time() - OLD_S,) * 2)
    return name


def named(*names: str) -> JobResult:
    (image,) = result().images
    return result().model_copy(
        update={"images": tuple(image.model_copy(update={"name": name}) for name in names)}
    )


async def lived_in(stores: Stores, settings: BackendSettings, tenant: str, *, shared: bool = False) -> Used:
    """A tenant of whom there is something of every kind, and no live job. Its first picture is `b"of both"`, that of every tenant."""
    number = next(_numbers)
    prompt = f"secret words of {tenant}, the {number}th"
    scope, blobs = tenant_scope(tenant, shared), settings.blob_dir
    pictures = {
        "both": await drawn(stores, blobs, b"of both"),
        "own": await drawn(stores, blobs, f"own {number}".encode()),
        "cached": await drawn(stores, blobs, f"cached {number}".encode()),
        "forgotten": await drawn(stores, blobs, f"forgotten {number}".encode()),
        "preview": await drawn(stores, blobs, f"preview {number}".encode()),
        "input": await drawn(stores, blobs, f"input {number}".encode(), is_input=True),
        "reserved": await drawn(stores, blobs, f"reserved {number}".encode(), is_input=True),
        "imported": await drawn(stores, blobs, f"imported {number}".encode()),
    }
    made: dict[str, NewJob] = {}

    def job(name: str, digit: str, **more: Any) -> NewJob:
        plain = new(f"{digit}{next(_numbers):063x}", tenant)
        request = plain.request.model_copy(
            update={
                "prompt": prompt,
                "init_image": pictures["input"],
                "strength": 0.5,
                "metadata": {"customer": prompt},
            }
        )
        made[name] = plain.model_copy(update={"request": request, **more})
        return made[name]

    jobs = stores.jobs
    leader = job("ended", "1", webhook=HOOK)
    lease = await _claimed(stores, leader)
    follower = job("joined", "1").model_copy(update={"key": leader.key})
    made["joined"] = follower
    await jobs.submit(follower)
    assert await jobs.preview(lease, Preview(index=0, name=pictures["preview"]))
    embedded = tuple(
        record(leader, scope=SHARED if shared else tenant, name=pictures[kind], prompt=prompt)
        for kind in ("both", "own", "forgotten")
    )
    ended = await jobs.end_many([End(lease, named(pictures["both"], pictures["own"]), pictures=embedded)])
    assert ended == [Finished(applied=True)]
    brought_in = imported(pictures["imported"], tenant, prompt)
    assert await stores.imports.add(brought_in, hashlib.sha256(prompt.encode()).hexdigest())
    await jobs.submit(job("hit", "2"), named(pictures["cached"]))
    assert (await jobs.fail(await _claimed(stores, job("failed", "3")), FAILURE)).applied
    withdrawn = job("withdrawn", "4")
    await jobs.submit(withdrawn)
    assert (await jobs.withdraw(withdrawn.id)).applied
    canceled = job("canceled", "5")
    await jobs.submit(canceled)
    await jobs.cancel(tenant, canceled.id)
    await _called(stores, leader)

    address = result_address(leader.key, leader.request, scope)
    await stores.results.put(address, named(pictures["both"], pictures["own"], pictures["cached"]))
    group = result_pattern(key="9" * 64, scope=scope, model=leader.request.model, revision="")
    embedding = Embedding.of("c@1", b"12")
    similar = SimilarPrompt(address=address, prompt=prompt, seed=1, embedding=embedding, at=time.time())
    await stores.similar.add(group, similar)
    await _keyed(stores, tenant, number, made, pictures)
    await stores.usage.add("2026-11-30", {(tenant, "jobs"): 6, (tenant, "steps"): 8})
    await stores.usage.add("2026-11-29", {(tenant, "refused"): 1})
    await stores.clicks.add(tenant, prompt, pictures["own"], f"key:dk_{number:08d}", time.time())
    await stores.room.add({tenant: {int(time.time()) + 1000: 9000}})
    return Used(tenant, prompt, made, pictures, f"dk_{number:08d}")


async def _claimed(stores: Stores, job: NewJob) -> Any:
    submitted = await stores.jobs.submit(job)
    claim = await stores.jobs.claim(submitted.job.message(), "w1")
    assert isinstance(claim, Granted)
    return claim.lease


async def _called(stores: Stores, job: NewJob) -> None:
    """An attempt at the job's webhook that has failed; another receiver has gone; a secret signs."""
    calls = [call for call in await stores.webhooks.take(shard_of(job.id), 10, 60.0) if call.job_id == job.id]
    assert await stores.webhooks.begin(calls[0], 60.0) is not None
    miss = Attempt(at=1.0, duration_ms=2.5, status_code=500)
    assert await stores.webhooks.settle(calls[0], miss, DeliveryStatus.PENDING, 600.0)
    await stores.webhooks.disable(job.tenant, "https://gone.example/")
    await stores.webhooks.secrets(job.tenant)


async def _keyed(
    stores: Stores, tenant: str, number: int, made: dict[str, NewJob], pictures: dict[str, str]
) -> None:
    """A key that was revoked long ago, its account, and three idempotency keys: settled, settled by an earlier version, and one that
    still holds its job."""
    key_id = f"dk_{number:08d}"
    await stores.keys.create(
        ApiKey(
            id=key_id, tenant=tenant, name="shop", digest="d" * 64, scopes=(Scope.GENERATE,), created_at=1.0
        )
    )
    await stores.keys.revoke(key_id, time.time() - OLD_S)
    for job in made.values():
        await stores.quotas.admit(key_id, LIMITS, Charge(job.id, 1, repeats=True))
    await stores.quotas.settle(key_id, [], [made["hit"].id], [])
    settled = Reservation(fingerprint="f" * 64, new=made["ended"])
    await stores.idempotency.reserve(tenant, "one", settled)
    await stores.idempotency.complete(tenant, "one", settled)
    await stores.idempotency.reserve(
        tenant, "two", Reservation(fingerprint="f" * 64, job_id=made["hit"].id, done=True)
    )
    request = made["hit"].request.model_copy(update={"init_image": pictures["reserved"]})
    waiting = made["hit"].model_copy(update={"id": new("6" * 64).id, "request": request})
    await stores.idempotency.reserve(tenant, "three", Reservation(fingerprint="f" * 64, new=waiting))


async def indexed(stores: Stores) -> list[Unwanted]:
    """An indexer comes by: it forgets what it must, and is owed nothing any more. Answers what it has forgotten."""
    store = stores.pictures
    taken = [job_id for shard in store.shards for job_id in await store.take(shard, 1000, 60.0)]
    await store.settle(taken)
    unwanted = [each for shard in store.shards for each in await store.take_unwanted(shard, 1000, 60.0)]
    await store.settle_unwanted(unwanted)
    assert await store.owed() == 0
    return sorted(unwanted)


async def everything(client: Any, timeout_s: float = 20.0) -> dict[str, Any]:
    """Every key of a server or cluster, and what it holds."""
    found: dict[str, Any] = {}
    async for names in pages(client, "store", timeout_s, "*", 500):
        for name in names:
            found[name] = await _held(client, name)
    return found


async def _held(client: Any, name: str) -> Any:
    match await client.type(name):
        case "string":
            return await client.get(name)
        case "hash":
            return await client.hgetall(name)
        case "zset":
            return await client.zrange(name, 0, -1, withscores=True)
        case "list":
            return await client.lrange(name, 0, -1)
        case "set":
            return sorted(await client.smembers(name))
    return None
