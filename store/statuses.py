"""Reads the statuses of many jobs at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from redis.asyncio import Redis

from contracts.jobs import JobStatus

_KNOWN: Final = frozenset(status.value for status in JobStatus)
PAGE: Final = 1000
"""Commands in one pipeline."""


async def read_statuses(client: Redis, keys: Sequence[str]) -> list[JobStatus | None]:
    """The status of each record; None where there is none. A withdrawn job counts as canceled.
    Raises what redis-py raises."""
    words: list[str | None] = []
    for start in range(0, len(keys), PAGE):
        async with client.pipeline(transaction=False) as pipeline:
            for key in keys[start : start + PAGE]:
                pipeline.hget(key, "status")
            words += await pipeline.execute()
    return [None if word is None else _status(word) for word in words]


def _status(word: str) -> JobStatus:
    if word == "withdrawn":
        return JobStatus.CANCELED
    # A status of a newer version: as far as this version can tell, the job has not ended.
    return JobStatus(word) if word in _KNOWN else JobStatus.RUNNING
