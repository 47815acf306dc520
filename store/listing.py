"""A tenant's jobs in Redis, newest first, page by page."""

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
"""Where a job is in its tenant's list: its creation time by the store's clock (Unix seconds), and
its id."""


async def newest_jobs(
    client: Redis, guard: LayoutGuard, layout: Layout, tenant: str, limit: int, before: str | None
) -> Sequence[Job]:
    """At most `limit` jobs of the tenant, older than the job id `before`. Fewer only where there
    are no more. Raises `StoreUnavailable`.

    Records expire by themselves and leave their places in the list. Places without a record are
    trimmed, so each is met once.
    """
    async with guard.store_errors():
        jobs: list[Job] = []
        last = None if before is None else await _place(client, layout, tenant, before)
        while len(jobs) < limit:
            places = await _places(client, layout, tenant, limit - len(jobs), last)
            if not places:
                break
            last = places[-1]
            jobs += await _jobs(client, layout, tenant, [job_id for _, job_id in places])
    return jobs


async def _place(client: Redis, layout: Layout, tenant: str, job_id: str) -> Place:
    """The job's place. If it has gone, the creation time in its id stands in: the API's clock is
    close to the store's."""
    score = await client.zscore(layout.tenant_key(job_id, tenant), job_id)
    return (ids.created_at(job_id) if score is None else float(score)), job_id


async def _places(
    client: Redis, layout: Layout, tenant: str, limit: int, before: Place | None
) -> Sequence[Place]:
    # The newest of each shard, merged: a page costs two round trips for any number of shards. Ids
    # sort by the API's time and scores by the store's, so the score alone decides a place.
    highest = "+inf" if before is None else f"({before[0]!r}"
    async with client.pipeline(transaction=False) as pipeline:
        for key in layout.tenant_keys(tenant):
            pipeline.zrange(
                key, highest, "-inf", desc=True, byscore=True, offset=0, num=limit, withscores=True
            )
            if before is not None:
                # Many cache hits are recorded at the same time.
                pipeline.zrange(key, before[0], before[0], byscore=True, withscores=True)
        places = [(score, job_id) for page in await pipeline.execute() for job_id, score in page]
    return sorted((place for place in places if before is None or place < before), reverse=True)[:limit]


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
