"""The outbox of images as a dispatcher sees it: each duty names one job."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from contracts.pictures import Owed
from contracts.ports.picture_outbox import PictureOutbox

GROUP: Final = 32
"""The most jobs of one message. Their images are embedded and put together."""


def grouped(duties: Sequence[Owed]) -> list[Owed]:
    """The duties in as few messages as possible, in order. Pure."""
    job_ids = [job_id for duty in duties for job_id in duty.job_ids]
    groups = [job_ids[begin : begin + GROUP] for begin in range(0, len(job_ids), GROUP)]
    return [Owed(job_id=first, more=tuple(more)) for first, *more in groups]


@dataclass(frozen=True, slots=True)
class OwedPictures:
    """The `duties.dispatch.Outbox` of the index. Every coroutine raises `StoreUnavailable`."""

    outbox: PictureOutbox

    @property
    def shards(self) -> Sequence[str]:
        """The shards of the store."""
        return self.outbox.shards

    async def take(self, shard: str, limit: int, lease_s: float) -> Sequence[Owed]:
        """Up to `limit` jobs of the shard whose images are due. They are due again after `lease_s` seconds."""
        return [Owed(job_id=job_id) for job_id in await self.outbox.take(shard, limit, lease_s)]

    async def due(self) -> int:
        """How many jobs and deletions the index is owed, taken or not."""
        return await self.outbox.owed()

    def wakes(self) -> AsyncIterator[str]:
        """Shards in which images have just become due, until the connection is lost."""
        return self.outbox.wakes()
