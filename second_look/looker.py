"""One attempt at one second look: from the duty that the store grants to the advice in the review."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from backends.blobs import HELD
from contracts.errors import HeldImageGone, ImageNotFound, ReviewDecided, ReviewNotFound
from contracts.moderation import Category, Finding
from contracts.ports.blob_store import BlobStore
from contracts.ports.clock import Clock
from contracts.ports.look_outbox import LookOutbox
from contracts.ports.review_store import ReviewStore
from contracts.reviews import SECOND_LOOK, LookOutcome, Review, SecondLook
from contracts.second_look import LookCall, LookDuty
from moderation.held import lead_of
from moderation.live import LivePolicy
from moderation.policy import Policy
from moderation.policy_second_look import SecondLookRules
from moderation.reviewing import Person, Reviewing
from moderation.second_look import asked_for, is_peoples, judged, may_decide
from second_look.endpoint import Endpoint, LookFailed
from second_look.protocol import Question
from second_look.schedule import next_attempt_s
from telemetry import metrics
from telemetry.logs import get_logger

MARGIN_S: Final = 15.0
"""A lease is this much longer than the longest call, in seconds."""

log = get_logger(__name__)


@dataclass(slots=True)
class Looker:
    """Makes attempts. All state is in the store. `chance` returns a random number in [0, 1)."""

    outbox: LookOutbox
    reviews: ReviewStore
    blobs: BlobStore
    reviewing: Reviewing
    policy: LivePolicy[None]
    endpoint: Endpoint
    clock: Clock
    chance: Callable[[], float] = random.random

    @property
    def lease_s(self) -> float:
        """How long the store grants an attempt to this process, in seconds."""
        rules = self.policy.now.policy.second_look
        return MARGIN_S + (0.0 if rules is None else rules.timeout_s)

    @property
    def patience_s(self) -> float:
        """After how many seconds a look that has not begun is put on the queue again."""
        rules = self.policy.now.policy.second_look
        return 0.0 if rules is None else rules.deadline_s / 2

    async def run(self, call: LookCall) -> None:
        """Make the attempt, if it is still due. Raises `UnavailableError`; it then falls due again."""
        duty = await self.outbox.begin(call, self.lease_s)
        outcome = "repeated" if duty is None else await self._attempt(duty)
        metrics.SECOND_LOOKS.labels(outcome).inc()
        log.info("second_look", image=call.name, attempt=call.attempt, outcome=outcome)

    async def _attempt(self, duty: LookDuty) -> str:
        """Make the attempt, and answer what came of it."""
        policy, call = self.policy.now.policy, duty.call
        reviews = await self.reviews.find(call.name)
        if not reviews:
            return await self._settled(call, "gone")
        review = lead_of(reviews)
        if is_peoples(review):
            return await self._settled(call, "decided")
        if call.review != review.id:
            # The review that leads was opened by a scan, or has a look of its own.
            return await self._settled(call, "unasked")
        tenants = sorted({job.tenant for each in reviews for job in each.jobs})
        look = review.second_look
        if look is None or not look.answered:
            rules, categories = policy.second_look, asked_for(policy, tenants, review.case.verdict)
            if rules is None or not categories:
                return await self._settled(call, "unasked")
            found = await self._look(duty, policy, rules, review, categories, tenants)
            if isinstance(found, float):
                await self.outbox.settle(call, found)
                return "retry"
            # First the answer, then the decision: a process that takes over asks the model no second time.
            look = None if found is None else await self.outbox.note(review.id, found)
            if look is None:
                return await self._settled(call, "gone")
        await self._decide(policy, review, look)
        return await self._settled(call, look.outcome)

    async def _look(
        self,
        duty: LookDuty,
        policy: Policy,
        rules: SecondLookRules,
        review: Review,
        categories: tuple[Category, ...],
        tenants: Sequence[str],
    ) -> SecondLook | float | None:
        """What came of the look; else seconds until the next attempt; None: the file is gone."""
        age_s = self.clock.now() - duty.owed_at
        if age_s > rules.deadline_s:
            return self._nothing(policy, rules, "too_late")
        try:
            image = await self.blobs.get(HELD + review.name)
        except ImageNotFound:
            return None
        if not await self.outbox.spend(rules.budget_per_hour):
            return self._nothing(policy, rules, "over_budget")
        question = Question(
            model=rules.model,
            categories=categories,
            describe=rules.describe,
            image=image,
            content_type=review.case.content_type,
            prompt=review.case.prompt if rules.send_prompt else None,
        )
        try:
            with metrics.SECOND_LOOK_SECONDS.time():
                answer = await self.endpoint.ask(rules, question)
        except LookFailed as failed:
            log.warning(
                "second_look_failed", image=review.name, cause=failed.cause, attempt=duty.call.attempt
            )
            age_s = self.clock.now() - duty.owed_at
            wait_s = (
                next_attempt_s(
                    duty.call.attempt,
                    rules,
                    age_s=age_s,
                    chance=self.chance(),
                    retry_after_s=failed.retry_after_s,
                )
                if failed.retry
                else None
            )
            return self._nothing(policy, rules, failed.outcome) if wait_s is None else wait_s
        return SecondLook(
            outcome=judged(policy, tenants, answer.scores),
            model=rules.model,
            policy=policy.title,
            reason=answer.reason,
            findings=tuple(
                Finding(layer="second_look", category=name, score=answer.scores[name], source=rules.model)
                for name in categories
            ),
            at=self.clock.now(),
        )

    def _nothing(self, policy: Policy, rules: SecondLookRules, outcome: LookOutcome) -> SecondLook:
        """The model says nothing: people decide."""
        return SecondLook(outcome=outcome, model=rules.model, policy=policy.title, at=self.clock.now())

    async def _decide(self, policy: Policy, review: Review, look: SecondLook) -> None:
        """Vote as the model advises, if it may and nobody has touched the review."""
        choice = look.advice
        if choice is None or not may_decide(policy, choice, review.case.verdict):
            return
        # The scores, and not the reason: the audit trail is kept for ever, and a reason may quote a prompt.
        note = ", ".join(f"{each.category} {each.score:.2f}" for each in look.findings)
        try:
            await self.reviewing.decide(
                review.name, choice, Person(SECOND_LOOK + look.model), note, first=True
            )
        except (HeldImageGone, ReviewDecided, ReviewNotFound):
            log.info("second_look_was_late", image=review.name)

    async def _settled(self, call: LookCall, outcome: str) -> str:
        await self.outbox.settle(call, None)
        return outcome
