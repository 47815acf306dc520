"""What follows from verdicts: which of two is graver, how urgent a review is, and when people have
decided. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from backends.blobs import HELD
from contracts.jobs import ImageRef, JobResult
from contracts.moderation import Layer, State, Verdict
from contracts.pictures import PictureRecord
from contracts.requests import GenerationRequest
from contracts.reviews import (
    OUTCOMES,
    SECOND_LOOK,
    Choice,
    Decision,
    HeldCase,
    PastDecision,
    Review,
    ReviewState,
    Severity,
    Vote,
)

GRAVITY: Final[dict[State, int]] = {
    "passed": 0,
    "released": 0,
    "tagged": 1,
    "in_review": 2,
    "refused": 3,
    "blocked": 3,
}
"""How grave a state is. Only the gravest of prompt and image counts."""
URGENT_SCORE: Final = 0.9
LIKELY_SCORE: Final = 0.5
STATES: Final[dict[ReviewState, State]] = {
    ReviewState.WAITING: "in_review",
    ReviewState.RELEASED: "released",
    ReviewState.REFUSED: "refused",
}
"""The state of an image, by what people decided."""


def gravest(picture: Verdict, prompt: Verdict | None) -> Verdict:
    """The verdict on an image and on the prompt that it was drawn from: the graver state, with the
    findings, categories and absent layers of both."""
    if prompt is None:
        return picture
    first, second = (prompt, picture) if GRAVITY[prompt.state] > GRAVITY[picture.state] else (picture, prompt)
    return first.model_copy(
        update={
            "categories": tuple(dict.fromkeys((*first.categories, *second.categories))),
            "away": tuple(dict.fromkeys((*first.away, *second.away))),
            "findings": (*prompt.findings, *picture.findings),
        }
    )


def decided_before(verdict: Verdict, past: PastDecision | None) -> Verdict:
    """The verdict on an image that was reviewed before: what was decided then, where a policy would hold
    it again. A blocked image stays blocked."""
    if verdict.state != "in_review" or past is None or past.state is ReviewState.WAITING:
        return verdict
    layer: Layer = "second_look" if past.by_model else "people"
    return verdict.model_copy(update={"state": past.state.value, "layer": layer})


def by_model(decision: Decision | None) -> bool:
    """Whether a second look alone decided, and no person."""
    if decision is None or decision.choice is None:
        return False
    deciding = [vote.by for vote in decision.votes if vote.choice == decision.choice]
    return all(voter.startswith(SECOND_LOOK) for voter in (*deciding, decision.by))


def was_released(verdict: Verdict) -> bool:
    """Whether an image is shown because a reviewer has released it."""
    return verdict.state == "released"


def severity_of(verdict: Verdict) -> Severity:
    """How urgent the review of a held image is: 3 for a known image or a sure finding, 2 for a likely
    one, 1 otherwise, such as for a layer that could not look."""
    if verdict.layer == "hashes" or (verdict.score or 0.0) >= URGENT_SCORE:
        return 3
    return 2 if (verdict.score or 0.0) >= LIKELY_SCORE else 1


def case_of(
    request: GenerationRequest, ref: ImageRef, verdict: Verdict, picture: PictureRecord | None, drawn: str
) -> HeldCase:
    """What a reviewer is shown of a job's image. `drawn` is the name of its file before it was signed."""
    return HeldCase(
        verdict=verdict,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        model=request.model,
        lora="" if request.lora is None else request.lora.name,
        width=ref.width,
        height=ref.height,
        seed=ref.seed,
        content_type=ref.content_type,
        size_bytes=ref.size_bytes,
        picture=picture,
        drawn=drawn,
    )


def with_vote(votes: Sequence[Vote], vote: Vote) -> tuple[Vote, ...]:
    """The votes with one more. A reviewer has one vote, the last."""
    return (*(each for each in votes if each.by != vote.by), vote)


def outcome(votes: Sequence[Vote], reviewers: int) -> ReviewState:
    """What the votes decide: a choice that `reviewers` people share. `WAITING`: nothing yet."""
    choices: tuple[Choice, ...] = ("refuse", "release")
    for choice in choices:
        if len({vote.by for vote in votes if vote.choice == choice}) >= reviewers:
            return OUTCOMES[choice]
    return ReviewState.WAITING


def lead_of(reviews: Sequence[Review]) -> Review:
    """The review that holds the votes and the decision on an image: the oldest. The others follow it."""
    return min(reviews, key=lambda review: (review.created_at, review.digit))


def decided_result(
    result: JobResult, name: str, indexes: Iterable[int], state: ReviewState, decision: Decision | None
) -> JobResult:
    """The result of a job whose images at `indexes`, with the file name `name`, are in that state, by that
    decision."""
    images = list(result.images)
    for index in indexes:
        if index >= len(images):
            continue
        images[index] = _decided_image(images[index], name, state, decision)
    return result.model_copy(update={"images": tuple(images)})


def _decided_image(image: ImageRef, name: str, state: ReviewState, decision: Decision | None) -> ImageRef:
    names = {ReviewState.WAITING: HELD + name, ReviewState.RELEASED: name, ReviewState.REFUSED: ""}
    if image.moderation is None or image.name not in ("", name, HELD + name):
        return image
    layer = image.moderation.layer
    # A review of an image that was decided before has no decision of its own, and its verdict says who it was.
    if state is not ReviewState.WAITING and (decision is not None or image.moderation.state != STATES[state]):
        layer = "second_look" if by_model(decision) else "people"
    verdict = image.moderation.model_copy(update={"state": STATES[state], "layer": layer})
    return image.model_copy(update={"name": names[state], "moderation": verdict})
