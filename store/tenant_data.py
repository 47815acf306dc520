"""Finds the data of one tenant by reading every record. No index holds all of them for as long as
they are kept.

`contracts/kept.py` lists every family of keys, and what in it belongs to a tenant. Documents are
read as plain JSON, since what a newer version wrote belongs to its tenant as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis

from backends.blobs import HELD, INPUTS, is_blob_name
from backends.redis_client import pages, store_errors
from cache import results
from cache.cache_key import covers, result_pattern, tenant_scope
from cache.similar_prompts import SIMILAR_PREFIX
from store import api_keys, idempotency, memory_use, usage
from store.clicks import clicks_prefix
from store.imports import imported_pattern
from store.key_names import ANY, Layout, fair_prefix, shard_prefix
from store.pictures import TENANT
from store.quotas import account_prefix
from store.record_names import Record, images_of, init_image_of, inner, names_in, parsed, shared_address
from store.reviews import JOB, appeals_key
from store.states import ENDED
from store.webhooks import gone_prefix, secrets_key

WHAT: Final = "job store"
PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Servers:
    """The clients of the state and of the cached results, perhaps the same one; and the layout of
    the state."""

    state: Redis
    cached: Redis
    timeout_s: float
    layout: Layout


@dataclass(slots=True)
class Found:
    """The data of a tenant: names, each with what a person may read of it. Names are Redis keys
    unless stated otherwise."""

    jobs: set[str] = field(default_factory=set)
    """Ids of jobs that have ended."""
    live: dict[str, set[str]] = field(default_factory=dict)
    """Jobs that have not ended, by id, and the images that each names. No other field counts
    them."""
    addresses: set[str] = field(default_factory=set)
    """Addresses at which shared results may be."""
    pictures: set[str] = field(default_factory=set)
    webhooks: set[str] = field(default_factory=set)
    """Ids of jobs that have a webhook delivery."""
    embedded: dict[str, set[str]] = field(default_factory=dict)
    """The images with an embedding that are recorded, by job. These records outlive that of the
    job."""
    reviews: dict[str, dict[str, str]] = field(default_factory=dict)
    """Reviews of images of its jobs: by member of the lists of reviews, the places of the image by job."""
    lists: set[str] = field(default_factory=set)
    results: dict[str, Any] = field(default_factory=dict)
    """Results in the tenant's own scope, by address."""
    similar: set[str] = field(default_factory=set)
    """Lists of prompts that similar ones are compared with, in the tenant's own scope."""
    reservations: dict[str, Any] = field(default_factory=dict)
    api_keys: dict[str, Any] = field(default_factory=dict)
    accounts: dict[str, str] = field(default_factory=dict)
    """The id of the API key, by Redis key."""
    usage: dict[str, dict[str, int]] = field(default_factory=dict)
    """Counts by day."""
    shares: dict[str, dict[str, float]] = field(default_factory=dict)
    """Finish tags in the queues of models, by Redis key."""
    singles: dict[str, set[str]] = field(default_factory=dict)
    """Keys that belong to the tenant as a whole, by kind."""

    def counts(self) -> dict[str, int]:
        """How much there is of each kind."""
        inputs = sum(name.startswith(INPUTS) for name in self.pictures)
        return {
            "live_jobs": len(self.live),
            "jobs": len(self.jobs),
            "webhooks": len(self.webhooks),
            "pictures": len(self.pictures) - inputs,
            "picture_records": sum(map(len, self.embedded.values())),
            "source_pictures": inputs,
            "reviews": len(self.reviews),
            "cached_results": len(self.results),
            "similar_prompts": len(self.similar),
            "idempotency_keys": len(self.reservations),
            "api_keys": len(self.api_keys),
            "quota_accounts": len(set(self.accounts.values())),
            "usage_days": len(self.usage),
            "queue_shares": sum(map(len, self.shares.values())),
            **{kind: len(keys) for kind, keys in self.singles.items()},
        }

    @property
    def nothing(self) -> bool:
        """Whether there is nothing of the tenant."""
        return not any(self.counts().values()) and not self.lists


class TenantData:
    """Finds the data of a tenant. Every coroutine raises `StoreUnavailable`."""

    def __init__(self, servers: Servers, tenant: str) -> None:
        self.servers = servers
        self.tenant = tenant
        self.scope = result_pattern(scope=tenant_scope(tenant, shared=False))
        """The pattern of results that the tenant shares with no other."""

    async def find(self) -> Found:
        """All data of the tenant. Reads the records of all tenants, page by page, while the
        platform runs."""
        found = Found()
        async for page in self.jobs():
            await self._add_jobs(found, page)
        async for records in self.embedded(lambda tenant: tenant == self.tenant):
            found.embedded |= {job_id: set(images) for job_id, images in records.items()}
            found.pictures |= embedded_names(records)
        async for reviews in self.reviews(lambda tenant: tenant == self.tenant):
            found.reviews |= reviews
            found.pictures |= held_names(reviews)
        await self._add_results(found)
        found.similar = await self._names(self.servers.cached, f"{SIMILAR_PREFIX}{self.scope}")
        await self._add_reservations(found)
        await self._add_keys(found)
        await self._add_counts(found)
        state = self.servers.state
        found.lists = await self._names(state, f"{shard_prefix(ANY)}tenant:{self.tenant}")
        found.singles = {
            "room_account": await self._existing(memory_use.KEPT_PREFIX + self.tenant),
            "appeals": await self._names(state, appeals_key(self.tenant)),
            "webhook_secrets": await self._existing(secrets_key(self.tenant)),
            "search_clicks": await self._names(state, f"{clicks_prefix(self.tenant)}*"),
            "webhook_receivers": await self._names(state, f"{gone_prefix(self.tenant)}*"),
            "import_hashes": await self._names(state, imported_pattern(self.tenant)),
        }
        return found

    async def jobs(self) -> AsyncIterator[list[Record]]:
        """The tenant's records, page by page, each once."""
        seen: set[str] = set()
        async for page in self.records(lambda tenant: tenant == self.tenant):
            # SCAN may answer a key twice.
            fresh = {record["id"]: record for record in page if record["id"] not in seen}
            seen |= set(fresh)
            if fresh:
                yield list(fresh.values())

    async def records(self, wanted: Callable[[str | None], bool]) -> AsyncIterator[list[Record]]:
        """The job records of the wanted tenants, page by page, without the marks of withdrawn
        jobs."""
        async for page in self._hashes("job", wanted):
            yield [record for _, record in page if record.get("tenant") and record.get("id")]

    async def embedded(
        self, wanted: Callable[[str | None], bool]
    ) -> AsyncIterator[dict[str, dict[str, Any]]]:
        """The records of images with an embedding, of the wanted tenants, page by page: by job, then
        by the image's name. Damaged ones are None."""
        async for page in self._hashes("picture", wanted):
            yield {
                name.rpartition(":")[2]: {key: parsed(text) for key, text in stored.items() if key != TENANT}
                for name, stored in page
            }

    async def reviews(self, wanted: Callable[[str | None], bool]) -> AsyncIterator[dict[str, dict[str, str]]]:
        """The reviews of images of the wanted tenants, page by page: by member of the lists of reviews, the
        places of the image by job of such a tenant."""
        state, timeout_s = self.servers.state, self.servers.timeout_s
        async for names in pages(state, WHAT, timeout_s, f"{shard_prefix(ANY)}review:*", PAGE):
            async with store_errors(WHAT, timeout_s), state.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.hgetall(name)
                hashes = await pipeline.execute()
            page = {
                name.partition("}:review:")[2]: {
                    key.removeprefix(JOB): value.partition(" ")[0]
                    for key, value in stored.items()
                    if key.startswith(JOB) and wanted(value.partition(" ")[2])
                }
                for name, stored in zip(names, hashes, strict=True)
            }
            yield {member: jobs for member, jobs in page.items() if jobs}

    async def _hashes(
        self, kind: str, wanted: Callable[[str | None], bool]
    ) -> AsyncIterator[list[tuple[str, Record]]]:
        """The hashes of a kind that the wanted tenants own, each with its key, page by page."""
        state, timeout_s = self.servers.state, self.servers.timeout_s
        async for names in pages(state, WHAT, timeout_s, f"{shard_prefix(ANY)}{kind}:*", PAGE):
            async with store_errors(WHAT, timeout_s), state.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.hget(name, TENANT)
                tenants = await pipeline.execute()
                wanted_names = [
                    name for name, tenant in zip(names, tenants, strict=True) if tenant and wanted(tenant)
                ]
                for name in wanted_names:
                    pipeline.hgetall(name)
                hashes = await pipeline.execute() if wanted_names else []
            yield [pair for pair in zip(wanted_names, hashes, strict=True) if pair[1]]

    async def cached(self) -> AsyncIterator[list[tuple[str, Any]]]:
        """Address and result of everything in the cache, page by page."""
        async for page in self._values(self.servers.cached, "result cache", f"{results.PREFIX}*"):
            yield [(name.removeprefix(results.PREFIX), parsed(text)) for name, text in page]

    async def reserved(self) -> AsyncIterator[list[tuple[str, Any]]]:
        """Key and reservation of every idempotency key, page by page."""
        async for page in self._values(self.servers.state, WHAT, f"{idempotency.PREFIX}*"):
            yield [(name, parsed(text)) for name, text in page]

    async def _add_jobs(self, found: Found, page: list[Record]) -> None:
        for record in page:
            if record.get("status") not in ENDED:
                found.live[record["id"]] = images_of(record)
                continue
            found.jobs.add(record["id"])
            found.pictures |= images_of(record)
            found.addresses |= shared_address(record)
        owing = [record["id"] for record in page if "webhook" in record]
        state = self.servers.state
        async with store_errors(WHAT, self.servers.timeout_s), state.pipeline(transaction=False) as pipeline:
            for job_id in owing:
                pipeline.exists(f"{self.servers.layout.job_prefix(job_id)}hook:{job_id}")
            owed = await pipeline.execute() if owing else []
        found.webhooks |= {job_id for job_id, there in zip(owing, owed, strict=True) if there}

    async def _add_results(self, found: Found) -> None:
        async for page in self.cached():
            for address, result in page:
                if _covered(self.scope, address):
                    found.results[address] = result
                    found.pictures |= names_in(result)

    async def _add_reservations(self, found: Found) -> None:
        async for page in self.reserved():
            for name, reservation in page:
                if self._is_mine(found, reservation):
                    found.reservations[name] = reservation
                    found.pictures |= init_image_of(inner(reservation, "new", "request"))

    def _is_mine(self, found: Found, reservation: Any) -> bool:
        tenant = inner(reservation, "tenant") or inner(reservation, "new", "tenant")
        # Earlier versions name only the job.
        job_id = inner(reservation, "job_id")
        return tenant == self.tenant or (tenant is None and (job_id in found.jobs or job_id in found.live))

    async def _add_keys(self, found: Found) -> None:
        async with store_errors("key store", self.servers.timeout_s):
            records: Any = await self.servers.state.hgetall(api_keys.RECORDS)
            revoked: Any = await self.servers.state.hgetall(api_keys.REVOKED)
        for key_id, text in records.items():
            record = parsed(text)
            if inner(record, "tenant") == self.tenant:
                record["revoked_at"] = float(revoked[key_id]) if key_id in revoked else None
                found.api_keys[key_id] = record
        for name in await self._names(self.servers.state, f"{account_prefix(ANY)}*"):
            key_id = name.removeprefix(account_prefix(ANY).partition(ANY)[0]).partition("}")[0]
            if key_id in found.api_keys:
                found.accounts[name] = key_id

    async def _add_counts(self, found: Found) -> None:
        state, timeout_s = self.servers.state, self.servers.timeout_s
        for name in await self._names(state, usage.usage_key(ANY)):
            async with store_errors("usage", timeout_s):
                fields: Any = await state.hgetall(name)
            # `<measure>:<tenant>`
            counts = {
                key.partition(":")[0]: int(n) for key, n in fields.items() if _owner(key) == self.tenant
            }
            if counts:
                found.usage[name.rpartition(":")[2]] = counts
        for name in await self._names(state, f"{fair_prefix(ANY)}finish"):
            async with store_errors(WHAT, timeout_s):
                flows: Any = await state.zrange(name, 0, -1, withscores=True)
            # `<priority>:<tenant>`
            tags = {flow: float(tag) for flow, tag in flows if _owner(flow) == self.tenant}
            if tags:
                found.shares[name] = tags

    async def _existing(self, name: str) -> set[str]:
        async with store_errors(WHAT, self.servers.timeout_s):
            return {name} if await self.servers.state.exists(name) else set()

    async def _names(self, client: Redis, pattern: str) -> set[str]:
        all_names: set[str] = set()
        async for names in pages(client, WHAT, self.servers.timeout_s, pattern, PAGE):
            all_names |= set(names)
        return all_names

    async def _values(self, client: Redis, what: str, pattern: str) -> AsyncIterator[list[tuple[str, str]]]:
        async for names in pages(client, what, self.servers.timeout_s, pattern, PAGE):
            async with (
                store_errors(what, self.servers.timeout_s),
                client.pipeline(transaction=False) as pipeline,
            ):
                for name in names:
                    pipeline.get(name)
                values = await pipeline.execute()
            yield [(name, value) for name, value in zip(names, values, strict=True) if value is not None]


def embedded_names(records: dict[str, dict[str, Any]]) -> set[str]:
    """The names of the images that these records are of."""
    return {name for images in records.values() for name in images if is_blob_name(name)}


def held_names(reviews: Iterable[str]) -> set[str]:
    """The private names of the images that these reviews are of."""
    return {HELD + member.rpartition(":")[0] for member in reviews}


def _covered(pattern: str, address: str) -> bool:
    return address.count(".") == pattern.count(".") and covers(pattern, address)


def _owner(name: str) -> str:
    return name.partition(":")[2]
