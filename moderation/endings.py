"""Ends the reviews of an image: deletes the file once a refusal can no longer be undone, and refuses what
nobody has decided before its retention ends.

The file of an image serves all its reviews, one for each digit of job ids. It is deleted once all of them
are refused and over.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

from backends.blobs import HELD
from contracts.ports.clock import Clock
from contracts.ports.review_store import Change
from contracts.reviews import Decision, Review, ReviewState
from moderation.held import lead_of
from store.stores import Stores
from telemetry import metrics

WHENEVER: Final = float("inf")
"""A file is deleted whenever it was put: the clock of its disk may be ahead."""
RENEW_S: Final = 7200.0
"""A review is kept for so many seconds more while a younger one of its image waits."""
NOBODY_DECIDED: Final = "Nobody decided while the image was kept."
FILE_GONE: Final = "The file of the image is gone."


class Endings:
    """Ends reviews that are over (`ReviewStore.discards`). Every step may be done twice."""

    def __init__(self, stores: Stores, clock: Clock, undo_s: float) -> None:
        """`undo_s`: for how many seconds the file of a refused image is kept."""
        self._stores = stores
        self._clock = clock
        self._undo_s = undo_s

    async def end(self, name: str, over: AbstractSet[str]) -> bool:
        """Do the next step for the image `name`, whose reviews with the ids `over` are over.

        Answers whether there is now a decision to be carried out. Raises `StoreUnavailable`.
        """
        reviews = await self._stores.reviews.find(name)
        if not reviews:
            await self._stores.reviews.forget(name)
            return False
        lead = lead_of(reviews)
        if any((each.state, each.decision) != (lead.state, lead.decision) for each in reviews):
            return True
        if lead.state is ReviewState.WAITING:
            return await self._lapse(reviews, lead, over)
        if lead.state is ReviewState.REFUSED:
            await self._discard(reviews, lead, over)
        return False

    async def _lapse(self, reviews: Sequence[Review], lead: Review, over: AbstractSet[str]) -> bool:
        """Refuse the image if none of its reviews has time left. Otherwise the others wait for that one."""
        if all(review.over or review.id in over for review in reviews):
            changed = await self._stores.reviews.change(
                lead, undecided(lead, NOBODY_DECIDED, self._clock.now())
            )
            if changed:
                metrics.REVIEW_DECISIONS.labels("lapse").inc()
            return changed
        for review in reviews:
            if review.id in over:
                await self._stores.reviews.renew(review, RENEW_S)
        return False

    async def _discard(self, reviews: Sequence[Review], lead: Review, over: AbstractSet[str]) -> None:
        """Delete the file of a refused image."""
        change = self._stores.reviews.change
        gone = Change(lead.state, lead.votes, lead.decision, discarded=True)
        if not lead.discarded and lead.id not in over:
            for review in reviews:
                if review.id in over:
                    await change(review, following(lead, self._undo_s))
            return
        marked = [review for review in reviews if review.discarded]
        if len(marked) < len(reviews):
            # First the marks, so that nobody takes the refusal back meanwhile. They stay due.
            for review in (lead, *reviews):
                if not review.discarded:
                    await change(review, replace(gone, discard_s=0.0))
            return
        await self._stores.blobs.delete(HELD + lead.name, WHENEVER)
        for review in reviews:
            await change(review, gone)


def following(lead: Review, undo_s: float) -> Change:
    """The change that brings another review of the image to the state of the leading one."""
    discard_s = undo_s if lead.state is ReviewState.REFUSED else None
    return Change(
        lead.state,
        lead.votes,
        lead.decision,
        due=True,
        discard_s=0.0 if lead.discarded else discard_s,
        discarded=lead.discarded,
    )


def undecided(lead: Review, why: str, now: float) -> Change:
    """The refusal of an image on which nobody has decided, or can. Its file goes at once."""
    decision = Decision(
        id=secrets.token_hex(8), choice="refuse", by="", note=why, votes=(), at=lead.after(now)
    )
    return Change(ReviewState.REFUSED, (), decision, due=True, discard_s=0.0, discarded=True)
