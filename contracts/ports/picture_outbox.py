"""The port of the outbox of pictures: what the search index is owed, and what it must forget.

The transition that ends a job records its images here in the same step, so none is lost or recorded
twice. An imported image is recorded by the `ImportStore`, and has its `import_id` in place of a job's. Each entry is due at a time. `take` and `take_unwanted` move that time on. If their caller dies,
the entry becomes due again by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from contracts.pictures import PictureRecord


@dataclass(frozen=True, slots=True, order=True)
class Unwanted:
    """An image that the index must forget: its scope, its name, and the digit of its shard."""

    scope: str
    name: str
    digit: str


class PictureOutbox(Protocol):
    """Records of images, by job, and the duties of the index.

    Every coroutine raises `contracts.errors.StoreUnavailable` when the store is away or slow.
    """

    @property
    def shards(self) -> Sequence[str]:
        """One digit per shard of the store, as `JobStore.shards`."""
        ...

    async def take(self, shard: str, limit: int, lease_s: float) -> Sequence[str]:
        """Ids of up to `limit` jobs of the shard whose images are due for the index, oldest first.

        They are not due again for `lease_s` seconds. All callers use the same `lease_s`: what is leased
        for longer counts as due, since the clock was set back.
        """
        ...

    async def read(self, job_ids: Iterable[str]) -> Sequence[PictureRecord]:
        """The records of the jobs' images. A job whose records are gone has none."""
        ...

    async def settle(self, job_ids: Sequence[str]) -> Sequence[str]:
        """End the duty: the index has the images of these jobs.

        Returns the ids of jobs whose records were erased since `read`. The index must forget their
        images again.
        """
        ...

    async def forget(self, scope: str, names: Iterable[str]) -> None:
        """Owe the index the deletion of images of a scope. Their records stay as they are."""
        ...

    async def erase(self, job_id: str, shared_stay: Iterable[str] = ()) -> int:
        """Delete the records of the job's images, and owe the index their deletion, in one step.

        The index keeps images of the shared scope whose names are in `shared_stay`. Returns how many
        records were deleted.
        """
        ...

    async def embed(self, records: Sequence[PictureRecord]) -> None:
        """Record the embeddings of imported images. A record that was erased meanwhile stays so.

        Raises `StoreFull` too.
        """
        ...

    async def take_unwanted(self, shard: str, limit: int, lease_s: float) -> Sequence[Unwanted]:
        """Up to `limit` images of the shard that the index must forget. Leased as by `take`."""
        ...

    async def settle_unwanted(self, forgotten: Sequence[Unwanted]) -> None:
        """End the duty: the index has forgotten these images."""
        ...

    async def owed(self) -> int:
        """How many jobs and deletions the index is owed, taken or not."""
        ...

    async def scan(self, cursor: str = "") -> tuple[str, Sequence[PictureRecord]]:
        """A page of all kept records, and the cursor of the next one; an empty cursor: there is none.

        Pages may be empty. Records that are there from the first to the last call are returned at
        least once.
        """
        ...

    async def restore(self, record: PictureRecord, tenant: str) -> None:
        """Record an image of the tenant that was taken away, and owe it to the index.

        Raises `StoreFull` too.
        """
        ...

    def wakes(self) -> AsyncIterator[str]:
        """Shards in which images have just become due.

        Ends with its connection, and may miss some.
        """
        ...
