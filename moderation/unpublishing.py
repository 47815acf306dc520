"""Deletes public files of images whose release was undone while a process published them, and then died."""

from __future__ import annotations

from contracts.reviews import ReviewState
from moderation.endings import WHENEVER
from store.stores import Stores


async def unpublish(stores: Stores) -> None:
    """Delete what should not be public. Whoever undoes a release has first made it known by the image's hash.

    Raises `StoreUnavailable`, `BlobStoreUnavailable`.
    """
    unfinished = await stores.publications.unfinished()
    past = await stores.reviews.past([each.decided_as for each in unfinished])
    for each in unfinished:
        known = past.get(each.decided_as)
        if known is None or known.state is not ReviewState.RELEASED:
            # The note stays: the process may be alive, and slow.
            await stores.blobs.delete(each.name, WHENEVER)
