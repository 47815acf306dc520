"""How many jobs stand, read at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from redis.asyncio import Redis

from contracts.jobs import JobStatus

PAGE: Final = 1000
"""Commands in one pipeline."""


async def read_statuses(client: Redis, keys: Sequence[str]) -> list[JobStatus | None]:
    """The status of each record; None where there is none. A withdrawn job has ended, as far as anybody can tell."""
    found: list[str | None] = []
    for start in range(0, len(keys), PAGE):
        async with client.pipeline(transaction=False) as pipeline:
            for key in keys[start : start + PAGE]:
                pipeline.hget(key, "status")
            found += await pipeline.execute()
    return [
        None if each is None else JobStatus("canceled" if each == "withdrawn" else each) for each in found
    ]
