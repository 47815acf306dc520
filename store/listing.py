"""A tenant's jobs in Redis, newest first, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from redis.asyncio import Redis

from contracts import ids
from contracts.jobs import Job
from store.key_names import Layout
from store.layout import LayoutGuard
from store.records import job_of, read_all

Place = tuple[float, str]
"""Where a job stands in its tenant's list: the store's time of its creation, and its id."""


async def newest_jobs(
    client: Redis, guard: LayoutGuard, layout: Layout, tenant: str, limit: int, before: str | None
) -> Sequence[Job]:
    """At most `limit` jobs, older than the job id `before`; fewer only where there are no more. Raises `StoreUnavailable`.

    Records end by themselves, and leave their places. Those that are met are trimmed, so each is met once.
    """
    async with guard.store_errors():
        found: list[Job] = []
        last = None if before is None else await _place(client, layout, tenant, before)
        while len(found) < limit:
            places = await _places(client, layout, tenant, limit - len(found), last)
            if not places:
                break
            last = places[-1]
            found += await _jobs(client, layout, tenant, [job_id for _, job_id in places])
    return found


async def _place(client: Redis, layout: Layout, tenant: str, job_id: str) -> Place:
    """A place that has gone stands where its id says: its time is the API's, close to the store's."""
    score = await client.zscore(layout.tenant_key(job_id, tenant), job_id)
    return (ids.created_at(job_id) if score is None else float(score)), job_id


async def _places(
    client: Redis, layout: Layout, tenant: str, limit: int, before: Place | None
) -> Sequence[Place]:
    # Each shard's newest, merged: a page costs two round trips however many shards there are. Ids sort by time, but
    # their time is the API's and the score is the store's: one id's place is decided by its score alone.
    highest = "+inf" if before is None else f"({before[0]!r}"
    async with client.pipeline(transaction=False) as pipeline:
        for key in layout.tenant_keys(tenant):
            pipeline.zrange(
                key, highest, "-inf", desc=True, byscore=True, offset=0, num=limit, withscores=True
            )
            if before is not None:
                # Cache hits are recorded many in one moment.
                pipeline.zrange(key, before[0], before[0], byscore=True, withscores=True)
        found = [(score, job_id) for page in await pipeline.execute() for job_id, score in page]
    return sorted((place for place in found if before is None or place < before), reverse=True)[:limit]


async def _jobs(client: Redis, layout: Layout, tenant: str, job_ids: Sequence[str]) -> Sequence[Job]:
    """The jobs that have a record; the places of the others are trimmed."""
    async with client.pipeline(transaction=False) as pipeline:
        for job_id in job_ids:
            pipeline.hgetall(layout.job_key(job_id))
        records = await pipeline.execute()
        for job_id, record in zip(job_ids, records, strict=True):
            if not record:
                pipeline.zrem(layout.tenant_key(job_id, tenant), job_id)
        await pipeline.execute()
    return read_all("job", ((record["id"], partial(job_of, record)) for record in records if record))
