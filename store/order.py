"""The order of a model's waiting jobs, by fair tag over all shards: how many wait, and how many are
ahead of a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from redis.asyncio import Redis

from store.key_names import Layout, fair_prefix
from store.layout import LayoutGuard

LAST_ID: Final = "~"
"""Sorts behind every job id."""


class Order:
    """Reads the queues of the models. Every coroutine raises `StoreUnavailable`."""

    def __init__(self, client: Redis, layout: Layout, guard: LayoutGuard) -> None:
        self._client = client
        self._layout = layout
        self._guard = guard

    async def waiting(self, model: str, job_ids: Sequence[str]) -> tuple[int, Sequence[int | None]]:
        """How many jobs wait for the model, and how many are ahead of each id; None: that job does
        not wait."""
        layout = self._layout
        async with self._guard.store_errors(), self._client.pipeline(transaction=False) as pipeline:
            for prefix in layout.prefixes:
                pipeline.zcard(f"{prefix}waiting:{model}")
            for job_id in job_ids:
                pipeline.zscore(f"{layout.job_prefix(job_id)}waiting:{model}", job_id)
            answers = await pipeline.execute()
        tags: list[float | None] = answers[layout.number :]
        places = [(tag, job_id) for tag, job_id in zip(tags, job_ids, strict=True) if tag is not None]
        counts = iter(await self._before(model, places))
        return sum(answers[: layout.number]), [None if tag is None else next(counts) for tag in tags]

    async def ahead(self, model: str, flow: str) -> int:
        """How many waiting jobs would be ahead of the next job of `flow`."""
        clock = fair_prefix(model)
        async with self._guard.store_errors(), self._client.pipeline(transaction=False) as pipeline:
            pipeline.zmscore(f"{clock}finish", ["", flow])
            pipeline.zscore(f"{clock}clock", "now")
            (now, finish), before = await pipeline.execute()
        tag = max(now or 0.0, before or 0.0, finish or 0.0)
        return (await self._before(model, [(tag, LAST_ID)]))[0]

    async def _before(self, model: str, places: Sequence[tuple[float, str]]) -> Sequence[int]:
        """How many waiting jobs come before each place: those with a smaller tag, and older ones
        with the same tag."""
        if not places:
            return []
        prefixes = self._layout.prefixes
        async with self._guard.store_errors(), self._client.pipeline(transaction=False) as pipeline:
            for tag, _ in places:
                for prefix in prefixes:
                    queue = f"{prefix}waiting:{model}"
                    pipeline.zcount(queue, "-inf", f"({tag!r}")
                    pipeline.zrange(queue, tag, tag, byscore=True)
            answers = iter(await pipeline.execute())
        return [
            sum(next(answers) + sum(other < job_id for other in next(answers)) for _ in prefixes)
            for _, job_id in places
        ]
