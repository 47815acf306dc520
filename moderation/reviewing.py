"""What reviewers and owners do with held images: decide, undo, appeal."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from contracts.errors import HeldImageGone, NothingToAppeal, ReviewDecided, ReviewNotFound, StoreUnavailable
from contracts.ports.clock import Clock
from contracts.ports.review_store import Change, ReviewStore
from contracts.reviews import APPEALED, OUTCOMES, Appeal, Choice, Decision, Review, ReviewState, Vote
from moderation.carrying import Carrying, what_of
from moderation.held import lead_of, outcome, with_vote
from moderation.second_look import is_peoples
from store.moderation_log import ModerationLog
from telemetry import metrics

TRIES: Final = 20
"""How often a review that others change is read again."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who decides: the id of an API key, or the issuer and subject of a person, and what either is called."""

    id: str
    name: str = ""


class Reviewing:
    """Decides on held images, for people. `reviewers` people must agree."""

    def __init__(
        self,
        reviews: ReviewStore,
        carrying: Carrying,
        trail: ModerationLog,
        clock: Clock,
        *,
        reviewers: int = 1,
        undo_s: float = 3600.0,
    ) -> None:
        self._reviews = reviews
        self._carrying = carrying
        self._trail = trail
        self._clock = clock
        self._reviewers = reviewers
        self._undo_s = undo_s

    async def find(self, name: str) -> Review:
        """The review of an image: the leading one, with the jobs of all. Raises `ReviewNotFound`."""
        reviews = await self._reviews.find(name)
        if not reviews:
            raise ReviewNotFound("There is no review of this image.")
        jobs = tuple(job for review in reviews for job in review.jobs)
        return lead_of(reviews).model_copy(update={"jobs": jobs})

    async def decide(
        self, name: str, choice: Choice, person: Person, note: str = "", *, first: bool = False
    ) -> Review:
        """Vote for a choice. Answers the review; its state says whether that has decided it.

        The same choice of the same person changes nothing. With `first`, a review that somebody has touched
        before stays as it is. Raises `ReviewNotFound`, `ReviewDecided` if the image was decided otherwise
        before, `HeldImageGone` if there is no file to release, `StoreUnavailable`.
        """
        for _ in range(TRIES):
            lead = lead_of(await self._found(name))
            if first and is_peoples(lead):
                raise _decided(lead)
            if lead.state is not ReviewState.WAITING:
                await self._carrying.carry(name)
                if lead.state is OUTCOMES[choice]:
                    return await self.find(name)
                raise _decided(lead)
            if any((vote.by, vote.choice) == (person.id, choice) for vote in lead.votes):
                return await self.find(name)
            if choice == "release" and not await self._carrying.has_file(name):
                raise HeldImageGone("The file of this image is gone. It can be refused, and not released.")
            vote = Vote(choice=choice, by=person.id, name=person.name, note=note, at=self._clock.now())
            votes = with_vote(lead.votes, vote)
            await self._log(lead)
            state = outcome(votes, self._reviewers)
            decision = (
                None if state is ReviewState.WAITING else self._decision(lead, choice, person, note, votes)
            )
            change = Change(
                state,
                votes,
                # A vote that decides nothing leaves the last decision: it may not be carried out yet.
                decision or lead.decision,
                due=decision is not None,
                discard_s=self._undo_s if state is ReviewState.REFUSED else None,
            )
            if await self._reviews.change(lead, change):
                if decision is not None:
                    metrics.REVIEW_DECISIONS.labels(choice).inc()
                    await self._carrying.carry(name)
                return await self.find(name)
        raise StoreUnavailable("Others change this review all the time; try again.")

    async def undo(self, name: str, person: Person, note: str = "") -> Review:
        """Take a decision back: the image waits again, and nobody sees it.

        Raises `ReviewNotFound`, `ReviewDecided` if nothing is decided or the file is deleted.
        """
        for _ in range(TRIES):
            lead = lead_of(await self._found(name))
            if lead.state is ReviewState.WAITING:
                raise ReviewDecided("Nothing is decided on this image.", details={"state": lead.state.value})
            if lead.discarded:
                raise ReviewDecided(
                    "The file of this image is deleted; the refusal stays.",
                    details={"state": lead.state.value},
                )
            decision = self._decision(lead, None, person, note, ())
            await self._log(lead)
            if await self._reviews.change(lead, Change(ReviewState.WAITING, (), decision, due=True)):
                metrics.REVIEW_DECISIONS.labels("undo").inc()
                await self._carrying.carry(name)
                return await self.find(name)
        raise StoreUnavailable("Others change this review all the time; try again.")

    async def appeal(self, name: str, tenant: str, reason: str) -> Review:
        """Note that the owner objects. The image comes first in the queue; a refused one waits again.

        A second appeal changes nothing. Raises `ReviewNotFound` also for an image of other tenants, and
        `NothingToAppeal`.
        """
        for _ in range(TRIES):
            reviews = await self._reviews.find(name)
            job = next((job for review in reviews for job in review.jobs if job.tenant == tenant), None)
            if job is None:
                raise ReviewNotFound("There is no review of this image.")
            lead = lead_of(reviews)
            again = lead.appeal is not None and lead.appeal.tenant == tenant
            if again and lead.state is ReviewState.WAITING:
                return lead
            if lead.state is ReviewState.RELEASED:
                raise NothingToAppeal("This image is shown.")
            if lead.discarded or again:
                raise NothingToAppeal("This image was refused for good.")
            appeal = Appeal(tenant=tenant, job_id=job.id, reason=reason, at=lead.after(self._clock.now()))
            refused = lead.state is ReviewState.REFUSED
            votes = () if refused else lead.votes
            change = Change(ReviewState.WAITING, votes, lead.decision, APPEALED, appeal, due=refused)
            await self._log(lead)
            if await self._reviews.change(lead, change):
                metrics.REVIEW_DECISIONS.labels("appeal").inc()
                event = {"action": "appeal", "image": name}
                await self._trail.append(f"appeal:{name}:{appeal.at!r}", appeal.at, event)
                if refused:
                    await self._carrying.carry(name)
                return await self.find(name)
        raise StoreUnavailable("Others change this review all the time; try again.")

    async def _log(self, lead: Review) -> None:
        """Write the present decision into the trail before another one takes its place.

        Its process may have died before it did. An entry is written once.
        """
        if lead.decision is not None:
            await self._trail.append(lead.decision.id, lead.decision.at, what_of(lead))

    def _decision(
        self, lead: Review, choice: Choice | None, person: Person, note: str, votes: tuple[Vote, ...]
    ) -> Decision:
        return Decision(
            id=secrets.token_hex(8),
            choice=choice,
            by=person.id,
            name=person.name,
            note=note,
            votes=votes,
            at=lead.after(self._clock.now()),
        )

    async def _found(self, name: str) -> list[Review]:
        reviews = await self._reviews.find(name)
        if not reviews:
            raise ReviewNotFound("There is no review of this image.")
        return list(reviews)


def _decided(review: Review) -> ReviewDecided:
    decision = review.decision
    by = f" by {decision.name or decision.by}" if decision is not None and decision.by_reviewer else ""
    return ReviewDecided(
        f"This image was {review.state.value} before{by}.",
        details={"state": review.state.value, "at": None if decision is None else decision.at},
    )
