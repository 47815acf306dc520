"""Erases a tenant: its jobs with their images, its keys, its accounts, and all other data of it
(`contracts/kept.py`).

What names other things is erased last: images before the records that name them, accounts before
their keys. So an erasure that broke off continues when it is called again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from backends.blobs import INPUTS
from backends.redis_client import store_errors, unlink
from cache.cache_key import result_pattern, tenant_scope
from contracts.blobs import Deletion
from contracts.errors import JobGone, JobNotFound, RecordUnreadable, StoreFull
from contracts.ports.clock import Clock
from store import api_keys
from store.key_names import PREFIX
from store.record_names import images_of, init_image_of, inner, names_in, shared_address
from store.scripts import lua_source
from store.stores import Stores
from store.tenant_data import WHAT, Found, TenantData, embedded_names, held_names
from store.usage import usage_key

PROGRESS_PREFIX: Final = f"{PREFIX}erasing:"
"""A hash by tenant, while its erasure runs: when it was begun, and what has been erased."""
BEGUN: Final = "begun_at"
SETTLE_S: Final = 7.0
"""A revoked key may work for two more seconds. An API process adds its counts of a tenant after
five."""
GRACE_S: Final = 10.0
"""Longest time between storing an image and recording the job that names it, unless the store is
unavailable."""
PART: Final = 64
"""Items that are erased at once and counted together. If an erasure breaks off, at most so many are
uncounted."""
ROUNDS: Final = 5
"""Rounds of search and erasure. Data that arrives during one is erased in the next."""

Say = Callable[[str], None]


class TenantBusy(Exception):
    """The tenant has jobs that have not ended. The message says how many."""


@dataclass(frozen=True, slots=True)
class Erased:
    """`counts` is what was erased, by kind, including earlier calls that broke off.
    `shared_pictures` images stay, since another tenant's record names them. `left` is what arrived
    meanwhile, by kind; empty: nothing is left. `begun_at` is Unix seconds."""

    begun_at: float
    counts: dict[str, int]
    shared_pictures: int
    left: dict[str, int]


async def erase(
    data: TenantData, stores: Stores, clock: Clock, retention_s: float, say: Say, *, cancel: bool
) -> Erased:
    """Erases all data of the tenant. With `cancel`, its live jobs are canceled first.

    `say` gets messages for a person. Raises `TenantBusy` before anything is changed,
    `StoreUnavailable`.
    """
    found = await data.find()
    if found.live and not cancel:
        raise TenantBusy(f"{data.tenant} has {len(found.live)} jobs that have not ended")
    eraser = _Eraser(data, stores, clock, retention_s, say)
    await eraser.begin(found)
    await eraser.revoke(found)
    await eraser.cancel(found)
    await eraser.settle(found)
    found = await data.find()
    for _ in range(ROUNDS):
        if found.live and cancel:
            await eraser.cancel(found)
            found = await data.find()
        if found.nothing:
            break
        await eraser.round(found)
        found = await data.find()
    left = {kind: count for kind, count in found.counts().items() if count}
    return await eraser.end(left)


class _Eraser:
    def __init__(self, data: TenantData, stores: Stores, clock: Clock, retention_s: float, say: Say) -> None:
        self._data = data
        self._state = data.servers.state
        self._timeout_s = data.servers.timeout_s
        self._stores = stores
        self._clock = clock
        self._retention_s = retention_s
        self._say = say
        self._progress = PROGRESS_PREFIX + data.tenant
        self._counts: Counter[str] = Counter()
        self._begun_at = clock.now()
        self._shared: set[str] = set()

    async def begin(self, found: Found) -> None:
        """Continues from the counts of an earlier call."""
        async with store_errors(WHAT, self._timeout_s):
            before: Any = await self._state.hgetall(self._progress)
        if before:
            self._begun_at = float(before.pop(BEGUN, self._begun_at))
            self._counts.update({kind: int(count) for kind, count in before.items()})
            self._say(f"An erasure that was begun {_utc(self._begun_at)} goes on.")
        # If the store is full, go on without this mark: erasing makes room.
        if not found.nothing:
            with suppress(StoreFull):
                async with store_errors(WHAT, self._timeout_s):
                    await self._state.hset(self._progress, BEGUN, f"{self._begun_at:.6f}")

    async def revoke(self, found: Found) -> None:
        """Revokes the tenant's keys that are still valid."""
        for key_id, record in found.api_keys.items():
            if record["revoked_at"] is None:
                record["revoked_at"] = self._clock.now()
                async with store_errors("key store", self._timeout_s):
                    await self._state.hsetnx(api_keys.REVOKED, key_id, f"{record['revoked_at']:.6f}")

    async def settle(self, found: Found) -> None:
        """Waits until no request with the tenant's keys can still be under way."""
        last_revoked_at = max((record["revoked_at"] for record in found.api_keys.values()), default=0.0)
        wait_s = min(SETTLE_S, last_revoked_at + SETTLE_S - self._clock.now())
        if wait_s > 0:
            self._say(f"The API keys are revoked. What is under way settles, {wait_s:.0f} s ...")
            await asyncio.sleep(wait_s)

    async def cancel(self, found: Found) -> None:
        """Cancels the live jobs. A job that leads another tenant's computation hands it on, and the
        sweeper publishes that one."""
        for job_id in sorted(found.live):
            # A job that cannot be read is canceled all the same.
            with suppress(JobGone, JobNotFound, RecordUnreadable):
                _, finished = await self._stores.jobs.cancel(self._data.tenant, job_id)
                await self._count("canceled_jobs", int(finished.applied))

    async def round(self, found: Found) -> None:
        """Erases everything that was found."""
        unshared = await self._pictures(found)
        await self._embedded(found)
        await self._reviews(found)
        await self._results(found, unshared)
        await self._unlink("idempotency_keys", found.reservations)
        await self._jobs(found)
        if not found.live:
            await self._unlink(None, found.lists)
        for name, flows in found.shares.items():
            await self._remove_members("queue_shares", "zrem", name, flows)
        for kind, names in found.singles.items():
            await self._unlink(kind, names)
        await self._usage(found)
        await self._unlink(None, found.accounts)
        await self._count("quota_accounts", len(set(found.accounts.values())))
        await self._keys(found)

    async def _pictures(self, found: Found) -> set[str]:
        """Deletes the images that no other tenant names. Answers the addresses of shared results
        that are the tenant's alone."""
        remaining, waited = found.pictures.difference(*found.live.values()), False
        while True:
            round_begun = self._clock.now()
            in_use, unshared = await self._others_use(found, remaining)
            self._shared |= in_use
            recent = await self._delete(sorted(remaining - in_use), round_begun - GRACE_S)
            if not recent:
                return unshared
            if waited:
                # They are stored again and again, and no record names them yet. They end with their
                # retention.
                self._shared |= recent
                return unshared
            self._say(
                f"{len(recent)} images are new: another tenant's job may be about to name them. {GRACE_S:g} s ..."
            )
            await asyncio.sleep(GRACE_S + 1.0)
            remaining, waited = recent, True

    async def _delete(self, names: Sequence[str], put_before: float) -> set[str]:
        """Deletes images. Answers those that are too recent."""
        recent = set[str]()
        for page in _groups(names):
            outcomes = await asyncio.gather(
                *(self._stores.blobs.delete(name, put_before) for name in page), return_exceptions=True
            )
            recent |= {
                name for name, outcome in zip(page, outcomes, strict=True) if outcome is Deletion.YOUNG
            }
            deleted = [
                name for name, outcome in zip(page, outcomes, strict=True) if outcome is Deletion.DELETED
            ]
            inputs = sum(name.startswith(INPUTS) for name in deleted)
            await self._count("source_pictures", inputs)
            await self._count("pictures", len(deleted) - inputs)
            _raise_first(outcomes)
        return recent

    async def _others_use(self, found: Found, pictures: set[str]) -> tuple[set[str], set[str]]:
        """The images that data of other tenants names; and the shared results that no other
        tenant's job has."""
        in_use, unshared = set[str](), set(found.addresses)
        async for page in self._data.records(lambda tenant: tenant != self._data.tenant):
            for record in page:
                in_use |= images_of(record) & pictures
                unshared -= shared_address(record)
        async for records in self._data.embedded(lambda tenant: tenant != self._data.tenant):
            in_use |= embedded_names(records) & pictures
        async for reviews in self._data.reviews(lambda tenant: tenant != self._data.tenant):
            in_use |= held_names(reviews) & pictures
        async for reserved in self._data.reserved():
            for name, reservation in reserved:
                if name not in found.reservations:
                    in_use |= init_image_of(inner(reservation, "new", "request")) & pictures
        async for cached in self._data.cached():
            for address, result in cached:
                if address not in found.results and address not in unshared:
                    in_use |= names_in(result) & pictures
        return in_use, unshared

    async def _embedded(self, found: Found) -> None:
        """Deletes the records of images with an embedding. The search index forgets these images,
        but for those that records of other tenants share."""
        for page in _groups(sorted(found.embedded)):
            erased = await asyncio.gather(
                *(self._stores.pictures.erase(job_id, self._shared) for job_id in page),
                return_exceptions=True,
            )
            await self._count(
                "picture_records", sum(count for count in erased if not isinstance(count, BaseException))
            )
            _raise_first(erased)

    async def _reviews(self, found: Found) -> None:
        """Takes the tenant's jobs out of the reviews of images. What people decided on an image by its hash
        stays: it names no tenant."""
        for page in _groups(sorted(found.reviews)):
            outcomes = await asyncio.gather(
                *(
                    self._stores.reviews.erase(member, self._data.tenant, found.reviews[member])
                    for member in page
                ),
                return_exceptions=True,
            )
            await self._count("reviews", sum(not isinstance(each, BaseException) for each in outcomes))
            _raise_first(outcomes)

    async def _results(self, found: Found, unshared: set[str]) -> None:
        purged = await self._stores.results.purge(self._data.scope)
        await self._count("similar_prompts", len(found.similar))
        await self._count("cached_results", len(set(purged)))
        if unshared:
            everybodys = result_pattern(scope=tenant_scope("", shared=True))
            await self._count("similar_prompts", await self._stores.similar.forget(everybodys, unshared))
        for address in sorted(unshared):
            await self._count("cached_results", int(await self._stores.results.delete(address)))

    async def _jobs(self, found: Found) -> None:
        for page in _groups(sorted(found.jobs)):
            outcomes = await asyncio.gather(*map(self._job, page), return_exceptions=True)
            answers = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
            await self._count("jobs", sum(max(0, erased) for erased, _ in answers))
            await self._count("webhooks", sum(webhooks for _, webhooks in answers))
            _raise_first(outcomes)

    async def _job(self, job_id: str) -> tuple[int, int]:
        """The answer of `lua/erase.lua`."""
        script = self._state.register_script(lua_source("erase"))
        arguments: list[str | float] = [0, self._retention_s, job_id, self._data.tenant]
        async with store_errors(WHAT, self._timeout_s):
            erased, webhooks = await script(
                keys=[self._data.servers.layout.job_prefix(job_id)], args=arguments
            )
        return int(erased), int(webhooks)

    async def _usage(self, found: Found) -> None:
        for day, measures in found.usage.items():
            fields = [f"{measure}:{self._data.tenant}" for measure in measures]
            await self._remove_members(None, "hdel", usage_key(day), fields)
        await self._count("usage_days", len(found.usage))

    async def _keys(self, found: Found) -> None:
        """Deletes keys and revocations at once: a key without its revocation would be valid
        again."""
        for page in _groups(sorted(found.api_keys)):
            async with (
                store_errors("key store", self._timeout_s),
                self._state.pipeline(transaction=True) as pipeline,
            ):
                pipeline.hdel(api_keys.RECORDS, *page)
                pipeline.hdel(api_keys.REVOKED, *page)
                deleted, _ = await pipeline.execute()
            await self._count("api_keys", deleted)

    async def _unlink(self, kind: str | None, names: Iterable[str]) -> None:
        for page in _groups(sorted(names)):
            async with (
                store_errors(WHAT, self._timeout_s),
                self._state.pipeline(transaction=False) as pipeline,
            ):
                for name in page:
                    unlink(pipeline, name)
                deleted = await pipeline.execute()
            await self._count(kind, sum(deleted))

    async def _remove_members(
        self, kind: str | None, command: str, name: str, members: Iterable[str]
    ) -> None:
        for page in _groups(sorted(members)):
            async with store_errors(WHAT, self._timeout_s):
                deleted = await getattr(self._state, command)(name, *page)
            await self._count(kind, deleted)

    async def _count(self, kind: str | None, more: int) -> None:
        if kind is None or not more:
            return
        self._counts[kind] += more
        with suppress(StoreFull):
            async with store_errors(WHAT, self._timeout_s):
                await self._state.hincrby(self._progress, kind, more)

    async def end(self, left: dict[str, int]) -> Erased:
        """Ends the erasure. `left` is what is still there, by kind."""
        if not left:
            async with store_errors(WHAT, self._timeout_s):
                await self._state.delete(self._progress)
        return Erased(self._begun_at, dict(self._counts), len(self._shared), left)


def _groups(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[begin : begin + PART] for begin in range(0, len(names), PART))


def _raise_first(outcomes: Iterable[object]) -> None:
    """Raises the first error among the outcomes, after the rest was counted."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def _utc(unix_s: float) -> str:
    return time.strftime("at %Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))
