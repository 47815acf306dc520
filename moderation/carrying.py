"""Carries out what people decided on an image: in the audit trail, the blob store, the records of the
jobs that show it, and the search index.

Every step may be done twice, and a decision stays due until all are done. So nothing is lost if the
process that decided ends in between: `run` finds the decision, here or in another process.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final

from backends.blobs import HELD
from contracts.errors import ImageNotFound, JobGone, JobNotFound, RecordUnreadable, UnavailableError
from contracts.pictures import IMPORT, PictureRecord
from contracts.ports.clock import Clock
from contracts.ports.publications import Publication
from contracts.ports.scan_store import TakenAway
from contracts.reviews import Decision, PastDecision, Review, ReviewState, ShowingJob
from moderation.endings import FILE_GONE, WHENEVER, Endings, following, undecided
from moderation.held import by_model, decided_result, lead_of
from moderation.unpublishing import unpublish
from store.moderation_log import ModerationLog
from store.stores import Stores
from telemetry import metrics
from telemetry.logs import get_logger

EVERY_S: Final = 2.0
"""Seconds between two looks for decisions that are not carried out."""
BATCH: Final = 50
TRIES: Final = 10
"""How often a review or a job that others change is read again."""

log = get_logger(__name__)


class Carrying:
    """Carries decisions out. `run` does it for those that other processes have left."""

    def __init__(self, stores: Stores, trail: ModerationLog, clock: Clock, undo_s: float) -> None:
        """`undo_s`: for how many seconds the file of a refused image is kept."""
        self._stores = stores
        self._trail = trail
        self._clock = clock
        self._undo_s = undo_s
        self._endings = Endings(stores, clock, undo_s)

    async def run(self) -> None:
        """Look for decisions that are due, again and again."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.tick()
            except UnavailableError as error:
                metrics.REPAIRED.labels("reviews").inc()
                log.warning("reviews_not_carried_out", code=error.code)
            except Exception as error:  # noqa: BLE001 - whatever happens, the next look comes
                metrics.REPAIRED.labels("reviews").inc()
                log.error("reviews_broken", error=type(error).__name__)

    async def tick(self) -> None:
        """Do what is due: decisions, ends of reviews, files to be deleted, and refunds of blocked jobs.

        Raises `StoreUnavailable`.
        """
        await self._alone(self._pay, "refunds")
        await self._alone(self._unpublish, "publications")
        for name in await self._stores.reviews.due(BATCH):
            await self._alone(self.carry, name)
        over = defaultdict[str, set[str]](set)
        for id_ in await self._stores.reviews.discards(BATCH):
            over[id_.rpartition(":")[0]].add(id_)
        for name, ids in over.items():
            await self._alone(partial(self._end, ids=ids), name)

    async def _pay(self, _: str) -> None:
        await self._stores.refunds.pay(BATCH)

    async def _unpublish(self, _: str) -> None:
        await unpublish(self._stores)

    async def _alone(self, step: Callable[[str], Awaitable[None]], name: str) -> None:
        """Do the step. One broken review must not stop the others for ever."""
        try:
            await step(name)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one review
            metrics.REPAIRED.labels("reviews").inc()
            log.error("review_broken", image=name, error=type(error).__name__)

    async def has_file(self, name: str) -> bool:
        """Whether there is a file that a release of the image would show. Raises `BlobStoreUnavailable`."""
        return await self._stores.blobs.exists(HELD + name) or await self._stores.blobs.exists(name)

    async def carry(self, name: str) -> None:
        """Carry out the decision on the image with the file name `name`. Raises `StoreUnavailable`."""
        done: Decision | None = None
        for _ in range(TRIES):
            reviews = await self._stores.reviews.find(name)
            if not reviews:
                await self._stores.reviews.forget(name)
                return
            lead = lead_of(reviews)
            if lead.decision is None:
                # Nobody has decided, or a review that is gone had the decision by which the image is shown.
                for review in reviews:
                    await self._carry_one(review, lead)
                return
            if lead.decision == done:
                return
            # If it was decided anew in the meantime, by whichever process, the newer decision comes last.
            done = lead.decision
            await self._carry(reviews, lead, done)

    async def _carry(self, reviews: Sequence[Review], lead: Review, decision: Decision) -> None:
        """One pass over everything that shows the decision."""
        await self._trail.append(decision.id, decision.at, what_of(lead))
        await self._stores.reviews.remember(
            lead.decided_as,
            PastDecision(
                state=lead.state if decision.by_reviewer else ReviewState.WAITING,
                decision_id=decision.id,
                at=lead.changed_at,
                by_model=by_model(decision),
            ),
        )
        if not await self._place(lead, reviews):
            # Nobody may be told an address without a file.
            await self._stores.reviews.change(lead, undecided(lead, FILE_GONE, self._clock.now()))
            return
        for review in reviews:
            await self._carry_one(review, lead)

    async def _place(self, lead: Review, reviews: Sequence[Review]) -> bool:
        """Put the file where its state says: under its public name only if it is released.

        Answers false if there is no file to release.
        """
        blobs, name = self._stores.blobs, lead.name
        noted: list[Publication] = []
        if lead.state is ReviewState.RELEASED:
            try:
                data = await blobs.get(HELD + name)
            except ImageNotFound:
                if not await blobs.exists(name):
                    log.warning("held_image_gone", image=name)
                    return False
            else:
                # If this process dies before it has looked again, others do it (`moderation/unpublishing.py`).
                noted = [await self._stores.publications.begin(name, lead.decided_as)]
                await blobs.put(data, name.rpartition(".")[2])
            now = await self._stores.reviews.find(name)
            if now and lead_of(now).state is ReviewState.RELEASED:
                await self._stores.publications.end(noted)
                return True
            # It was undone in the meantime, perhaps by another process that has deleted the file already.
        await blobs.delete(name, WHENEVER)
        await self._stores.publications.end(noted)
        for scope in {each.case.picture.scope for each in reviews if each.case.picture is not None}:
            await self._stores.pictures.forget(scope, [name])
        return True

    async def _carry_one(self, review: Review, lead: Review) -> None:
        """Bring one review to the state of the leading one, and its jobs too."""
        for _ in range(TRIES):
            if (review.state, review.decision) != (lead.state, lead.decision):
                await self._stores.reviews.change(review, following(lead, self._undo_s))
            else:
                for job in review.jobs:
                    await self._tell(review, job)
                if await self._stores.reviews.settle(review):
                    return
            now = [each for each in await self._stores.reviews.find(review.name) if each.id == review.id]
            if not now:
                return
            review = now[0]
            if review.id == lead.id and review.decision != lead.decision:
                return  # decided anew; that decision is due by itself

    async def _tell(self, review: Review, job: ShowingJob) -> None:
        """Write the state into the record of a job, which tells its owner."""
        if job.id.startswith(IMPORT):
            await self._restore(review, job)
            return
        for _ in range(TRIES):
            try:
                before = (await self._stores.jobs.get(job.tenant, job.id)).result
            except (JobNotFound, JobGone, RecordUnreadable):
                await self._restore(review, job)
                return
            if before is None:
                return
            after = decided_result(before, review.name, job.indexes, review.state, review.decision)
            if after == before:
                return
            hidden = "" if review.state is ReviewState.RELEASED else review.name
            if await self._stores.reviews.apply(job.id, before, after, self._indexed(review, job), hidden):
                return

    async def _restore(self, review: Review, job: ShowingJob) -> None:
        """Let the search find an image only while it is released, where it outlives the record of its job, or has none."""
        picture = review.case.picture
        if picture is None or picture.job_id != job.id:
            return
        if review.state is ReviewState.RELEASED:
            await self._stores.pictures.restore(picture, job.tenant)
        else:
            # A rebuild of the index goes by the record, so that goes too.
            await self._stores.scans.take_away(TakenAway(id=job.id, pictures=(picture,)))

    def _indexed(self, review: Review, job: ShowingJob) -> PictureRecord | None:
        """What the search index is told of the image with this job; None: nothing."""
        picture = review.case.picture
        released = review.state is ReviewState.RELEASED
        return picture if released and picture is not None and picture.job_id == job.id else None

    async def _end(self, name: str, ids: AbstractSet[str]) -> None:
        """End the reviews of an image that are over, and carry out what follows."""
        if await self._endings.end(name, ids):
            await self.carry(name)


def what_of(review: Review) -> dict[str, object]:
    """What the audit trail says of the decision on an image.

    The trail is kept for ever, and nothing can be taken out of it. So it names people by the ids of their keys
    alone, and has no tenant, job, prompt or note.
    """
    decision = review.decision
    if decision is None:
        raise ValueError("nothing was decided")
    return {
        "action": (decision.choice or "undo") if decision.by_reviewer else "lapse",
        "image": review.name,
        "by": decision.by,
        "votes": [{"choice": vote.choice, "by": vote.by, "at": vote.at} for vote in decision.votes],
        "policy": review.case.verdict.policy,
        "categories": list(review.case.verdict.categories),
    }
