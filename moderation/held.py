"""What follows from verdicts: which of two is graver, how urgent a review is, and when people have
decided. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from backends.blobs import HELD
from contracts.jobs import ImageRef, JobResult
from contracts.moderation import State, Verdict
from contracts.reviews import OUTCOMES, Choice, Review, ReviewState, Severity, Vote

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


def decided_by_people(verdict: Verdict, state: ReviewState | None) -> Verdict:
    """The verdict on an image that people have seen before: theirs, where a policy would ask them
    again. A blocked image stays blocked."""
    if verdict.state != "in_review" or state is None or state is ReviewState.WAITING:
        return verdict
    return verdict.model_copy(update={"state": state.value, "layer": "people"})


def by_people(verdict: Verdict) -> bool:
    """Whether an image is shown because a reviewer has released it."""
    return (verdict.layer, verdict.state) == ("people", "released")


def severity_of(verdict: Verdict) -> Severity:
    """How urgent the review of a held image is: 3 for a known image or a sure finding, 2 for a likely
    one, 1 otherwise, such as for a layer that could not look."""
    if verdict.layer == "hashes" or (verdict.score or 0.0) >= URGENT_SCORE:
        return 3
    return 2 if (verdict.score or 0.0) >= LIKELY_SCORE else 1


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


def decided_result(result: JobResult, name: str, indexes: Iterable[int], state: ReviewState) -> JobResult:
    """The result of a job whose images at `indexes`, with the file name `name`, are in that state."""
    images = list(result.images)
    for index in indexes:
        if index >= len(images):
            continue
        images[index] = _decided_image(images[index], name, state)
    return result.model_copy(update={"images": tuple(images)})


def _decided_image(image: ImageRef, name: str, state: ReviewState) -> ImageRef:
    names = {ReviewState.WAITING: HELD + name, ReviewState.RELEASED: name, ReviewState.REFUSED: ""}
    if image.moderation is None:
        return image
    layer = image.moderation.layer if state is ReviewState.WAITING else "people"
    verdict = image.moderation.model_copy(update={"state": STATES[state], "layer": layer})
    return image.model_copy(update={"name": names[state], "moderation": verdict})
