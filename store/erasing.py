"""Erasing a tenant: its jobs with their pictures, its keys, its accounts, and whatever else is kept of it (`contracts/kept.py`).

What names other things goes last: pictures before the records that name them, accounts before the keys that they belong to. So one that
broke off is taken up again by calling it again.
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
from contracts.blobs import Deletion
from contracts.clock import Clock
from contracts.errors import JobGone, JobNotFound, RecordUnreadable, StoreFull
from store import api_keys
from store.key_names import PREFIX
from store.record_names import inner, names_in, pictures_of, shared_address, start_of
from store.scripts import lua_source
from store.stores import Stores
from store.tenant_data import WHAT, Found, TenantData
from store.usage import usage_key

PROGRESS_PREFIX: Final = f"{PREFIX}erasing:"
"""A hash by tenant, while its erasure is under way: when it was begun, and what has been erased."""
BEGUN: Final = "begun_at"
SETTLE_S: Final = 7.0
"""A revoked key may work for two seconds more, and an API process adds what it has counted for a tenant after five."""
GRACE_S: Final = 10.0
"""Between the picture and the record that names it there is as much time at most, unless the store is away."""
PART: Final = 64
"""Done at once, and counted together: so much may an erasure that breaks off have erased uncounted."""
ROUNDS: Final = 5
"""What comes while one looks is erased in the next round."""

Say = Callable[[str], None]


class TenantBusy(Exception):
    """The tenant has jobs that have not ended; the message says how many."""


@dataclass(frozen=True, slots=True)
class Erased:
    """`counts` by kind of what was erased, by earlier calls that broke off as well. `shared_pictures` stay: another tenant's record
    names them. `left` is what came meanwhile, by kind; empty: nothing is left."""

    begun_at: float
    counts: dict[str, int]
    shared_pictures: int
    left: dict[str, int]


async def erase(
    data: TenantData, stores: Stores, clock: Clock, retention_s: float, say: Say, *, cancel: bool
) -> Erased:
    """Erases all that is kept of the tenant. With `cancel` its live jobs are canceled first. Raises `TenantBusy` before anything is
    changed, `StoreUnavailable`."""
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
        """Takes up what an earlier call has counted."""
        async with store_errors(WHAT, self._timeout_s):
            before: Any = await self._state.hgetall(self._progress)
        if before:
            self._begun_at = float(before.pop(BEGUN, self._begun_at))
            self._counts.update({kind: int(count) for kind, count in before.items()})
            self._say(f"An erasure that was begun {_stamp(self._begun_at)} goes on.")
        # Where the store is full it goes on without: what is erased makes room.
        if not found.nothing:
            with suppress(StoreFull):
                async with store_errors(WHAT, self._timeout_s):
                    await self._state.hset(self._progress, BEGUN, f"{self._begun_at:.6f}")

    async def revoke(self, found: Found) -> None:
        """Ends the tenant's keys, those that have not ended yet."""
        for key_id, record in found.api_keys.items():
            if record["revoked_at"] is None:
                record["revoked_at"] = self._clock.now()
                async with store_errors("key store", self._timeout_s):
                    await self._state.hsetnx(api_keys.REVOKED, key_id, f"{record['revoked_at']:.6f}")

    async def settle(self, found: Found) -> None:
        """Waits until nothing can come by the tenant's keys any more."""
        last = max((record["revoked_at"] for record in found.api_keys.values()), default=0.0)
        left_s = min(SETTLE_S, last + SETTLE_S - self._clock.now())
        if left_s > 0:
            self._say(f"The API keys are revoked. What is under way settles, {left_s:.0f} s ...")
            await asyncio.sleep(left_s)

    async def cancel(self, found: Found) -> None:
        """Ends the live jobs. What leads another tenant's computation hands it on; the sweeper publishes that one."""
        for job_id in sorted(found.live):
            # One that cannot be read is canceled all the same.
            with suppress(JobGone, JobNotFound, RecordUnreadable):
                _, finished = await self._stores.jobs.cancel(self._data.tenant, job_id)
                await self._count("canceled_jobs", int(finished.applied))

    async def round(self, found: Found) -> None:
        doomed = await self._pictures(found)
        await self._results(found, doomed)
        await self._unlink("idempotency_keys", found.reservations)
        await self._jobs(found)
        if not found.live:
            await self._unlink(None, found.lists)
        for name, flows in found.shares.items():
            await self._members("queue_shares", "zrem", name, flows)
        for kind, names in found.singles.items():
            await self._unlink(kind, names)
        await self._usage(found)
        await self._unlink(None, found.accounts)
        await self._count("quota_accounts", len(set(found.accounts.values())))
        await self._keys(found)

    async def _pictures(self, found: Found) -> set[str]:
        """Deletes the pictures that nobody else names. Answers the addresses of results, of those that tenants share, that are the
        tenant's alone."""
        left, waited = found.pictures.difference(*found.live.values()), False
        while True:
            begun = self._clock.now()
            theirs, doomed = await self._others(found, left)
            self._shared |= theirs
            young = await self._delete(sorted(left - theirs), begun - GRACE_S)
            if not young:
                return doomed
            if waited:
                # Somebody puts them again and again, and has not yet recorded what for: they end with their retention.
                self._shared |= young
                return doomed
            self._say(
                f"{len(young)} pictures are new: another tenant's job may be about to name them. {GRACE_S:g} s ..."
            )
            await asyncio.sleep(GRACE_S + 1.0)
            left, waited = young, True

    async def _delete(self, names: Sequence[str], put_before: float) -> set[str]:
        """Answers those that are too new."""
        young = set[str]()
        for page in _parts(names):
            outcomes = await asyncio.gather(
                *(self._stores.blobs.delete(name, put_before) for name in page), return_exceptions=True
            )
            young |= {name for name, outcome in zip(page, outcomes, strict=True) if outcome is Deletion.YOUNG}
            gone = [name for name, outcome in zip(page, outcomes, strict=True) if outcome is Deletion.DELETED]
            inputs = sum(name.startswith(INPUTS) for name in gone)
            await self._count("source_pictures", inputs)
            await self._count("pictures", len(gone) - inputs)
            _raise(outcomes)
        return young

    async def _others(self, found: Found, pictures: set[str]) -> tuple[set[str], set[str]]:
        """Which of the pictures something of another tenant's names; and which shared results no other tenant's job has."""
        theirs, doomed = set[str](), set(found.addresses)
        async for page in self._data.records(lambda tenant: tenant != self._data.tenant):
            for record in page:
                theirs |= pictures_of(record) & pictures
                doomed -= shared_address(record)
        async for reserved in self._data.reserved():
            for name, reservation in reserved:
                if name not in found.reservations:
                    theirs |= start_of(inner(reservation, "new", "request")) & pictures
        async for cached in self._data.cached():
            for address, result in cached:
                if address not in found.results and address not in doomed:
                    theirs |= names_in(result) & pictures
        return theirs, doomed

    async def _results(self, found: Found, doomed: set[str]) -> None:
        purged = await self._stores.results.purge(self._data.scope)
        await self._count("cached_results", len(set(purged)))
        for address in sorted(doomed):
            await self._count("cached_results", int(await self._stores.results.delete(address)))

    async def _jobs(self, found: Found) -> None:
        for page in _parts(sorted(found.jobs)):
            outcomes = await asyncio.gather(*map(self._job, page), return_exceptions=True)
            answers = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
            await self._count("jobs", sum(max(0, erased) for erased, _ in answers))
            await self._count("webhooks", sum(webhooks for _, webhooks in answers))
            _raise(outcomes)

    async def _job(self, job_id: str) -> tuple[int, int]:
        """As `lua/erase.lua` answers."""
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
            await self._members(None, "hdel", usage_key(day), fields)
        await self._count("usage_days", len(found.usage))

    async def _keys(self, found: Found) -> None:
        """Both at once: a key without its revocation would open again."""
        for page in _parts(sorted(found.api_keys)):
            async with (
                store_errors("key store", self._timeout_s),
                self._state.pipeline(transaction=True) as pipeline,
            ):
                pipeline.hdel(api_keys.RECORDS, *page)
                pipeline.hdel(api_keys.REVOKED, *page)
                gone, _ = await pipeline.execute()
            await self._count("api_keys", gone)

    async def _unlink(self, kind: str | None, names: Iterable[str]) -> None:
        for page in _parts(sorted(names)):
            async with (
                store_errors(WHAT, self._timeout_s),
                self._state.pipeline(transaction=False) as pipeline,
            ):
                for name in page:
                    unlink(pipeline, name)
                gone = await pipeline.execute()
            await self._count(kind, sum(gone))

    async def _members(self, kind: str | None, command: str, name: str, members: Iterable[str]) -> None:
        for page in _parts(sorted(members)):
            async with store_errors(WHAT, self._timeout_s):
                gone = await getattr(self._state, command)(name, *page)
            await self._count(kind, gone)

    async def _count(self, kind: str | None, more: int) -> None:
        if kind is None or not more:
            return
        self._counts[kind] += more
        with suppress(StoreFull):
            async with store_errors(WHAT, self._timeout_s):
                await self._state.hincrby(self._progress, kind, more)

    async def end(self, left: dict[str, int]) -> Erased:
        if not left:
            async with store_errors(WHAT, self._timeout_s):
                await self._state.delete(self._progress)
        return Erased(self._begun_at, dict(self._counts), len(self._shared), left)


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[begin : begin + PART] for begin in range(0, len(names), PART))


def _raise(outcomes: Iterable[object]) -> None:
    """The first error among them, once what was done is counted."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def _stamp(unix_s: float) -> str:
    return time.strftime("at %Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))
