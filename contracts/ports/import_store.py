"""The port of the records of imported images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from contracts.pictures import PictureRecord


class ImportStore(Protocol):
    """Which images a tenant has imported, by the SHA-256 of the files that it sent.

    The records themselves lie where those of drawn images do: the `PictureOutbox` reads them. Every
    coroutine raises `contracts.errors.StoreUnavailable` when the store is away or slow.
    """

    async def known(self, tenant: str, digests: Sequence[str]) -> Mapping[str, str]:
        """The names of the images that the tenant has imported from files of these hashes, by hash.

        Hashes of files that it has not imported, or whose records are gone, are left out.
        """
        ...

    async def add(self, record: PictureRecord, digest: str, *, anew: bool = False) -> bool:
        """Record the image, which came from a file of this hash, and owe it to the index in the same step.

        The tenant is `record.scope`. Returns False if the image was recorded already; `anew` records
        it all the same. The store stamps the record. Raises `StoreFull`.
        """
        ...

    async def remove(self, tenant: str, name: str) -> bool:
        """Delete the record, and owe the index the deletion. Returns False if there was none."""
        ...

    async def in_use(self, name: str) -> bool:
        """Whether any tenant has a record of this imported image."""
        ...
