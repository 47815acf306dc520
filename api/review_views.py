"""Held images as reviewers see them: the wire models of the admin API of moderation. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from contracts.moderation import Finding, Layer, State
from contracts.reviews import LookOutcome, Review, ReviewState, SecondLook
from views.job import Wire

PATH = "/v1/admin/moderation"


class FindingView(Wire):
    """What one layer has found."""

    layer: Layer
    category: str
    score: float
    source: str


class VoteView(Wire):
    """One reviewer's choice."""

    choice: Literal["release", "refuse"]
    by: str = Field(
        description="The id of an API key, a person as `issuer#subject`, or `second-look:` and a model."
    )
    name: str
    note: str
    at: float


class DecisionView(Wire):
    """What was decided. `choice` null: an earlier decision was undone."""

    id: str
    choice: Literal["release", "refuse"] | None
    by: str
    name: str
    note: str
    at: float


class AppealView(Wire):
    """The owner's objection."""

    reason: str
    at: float


class SecondLookView(Wire):
    """What a model said of the image before people saw it, or why it said nothing."""

    outcome: LookOutcome = Field(
        description="`release`, `refuse` or `review` (people decide) are the model's answers. Others say why there is none."
    )
    model: str
    policy: str
    reason: str = Field(description="The model's own words; not to be relied on.")
    findings: list[FindingView]
    at: float


class ReviewJobView(Wire):
    """A job that has the image."""

    id: str
    tenant: str
    indexes: list[int] = Field(description="The places of the image among the job's images.")


class ReviewView(Wire):
    """One held image in a list. Times are Unix seconds."""

    name: str = Field(description="Names the image in this API. No other route serves it.")
    state: ReviewState
    severity: int = Field(description="4: the owner appeals; 3: known or sure; 2: likely; 1: other.")
    created_at: float
    policy: str
    verdict: State
    layer: Layer | None = Field(description="The layer that decided.")
    categories: list[str]
    score: float | None
    away: list[Layer] = Field(description="Layers that could not look.")
    prompt: str
    model: str
    width: int
    height: int
    seed: int
    content_type: str
    size_bytes: int
    tenants: list[str]
    votes: list[VoteView]
    decision: DecisionView | None
    appeal: AppealView | None
    second_look: SecondLookView | None = Field(description="Null: no model has looked.")
    picture: str = Field(description="Where a reviewer gets the bytes of the image.")
    undoable: bool = Field(description="Whether the decision can be undone.")


class LikeCase(Wire):
    """Another held or decided image that looks alike."""

    name: str
    state: ReviewState
    similarity: float
    categories: list[str]
    picture: str


class ReviewDetail(ReviewView):
    """One held image, with all that is known of it."""

    negative_prompt: str
    lora: str
    source: str = Field(description="The list or model that decided.")
    findings: list[FindingView]
    jobs: list[ReviewJobView]
    like: list[LikeCase] = Field(description="The most similar first; empty without embeddings.")


class ReviewList(Wire):
    """One page of held images: the gravest first, then the oldest; decided ones the newest first."""

    data: list[ReviewView]
    next_cursor: str | None = Field(description="The `after` of the next page; null on the last one.")
    waiting: int = Field(description="How many images wait for a person, in all.")
    oldest_at: float | None = Field(description="Since when the oldest of them waits.")
    reviewers: int = Field(description="How many reviewers must agree.")


class LogEntryView(Wire):
    """An entry of the audit trail. `hash` covers the entry and `previous`."""

    number: int
    id: str
    at: float
    what: dict[str, Any]
    previous: str
    hash: str
    signature: str


class LogView(Wire):
    """A part of the audit trail. `fault` says what is wrong with it; null: nothing."""

    data: list[LogEntryView]
    fault: str | None


class AppealedView(Wire):
    """An appeal was noted."""

    job_id: str
    index: int
    verdict: State


def picture_path(name: str) -> str:
    """Where a reviewer gets the bytes of the image."""
    return f"{PATH}/reviews/{name}/picture"


def review_view(review: Review) -> ReviewView:
    """The review in a list."""
    return ReviewView(**_fields(review))


def review_detail(review: Review, like: list[LikeCase]) -> ReviewDetail:
    """The review with all that is known of it."""
    case = review.case
    return ReviewDetail(
        **_fields(review),
        negative_prompt=case.negative_prompt,
        lora=case.lora,
        source=case.verdict.source,
        findings=_findings(case.verdict.findings),
        jobs=[ReviewJobView(id=job.id, tenant=job.tenant, indexes=list(job.indexes)) for job in review.jobs],
        like=like,
    )


def _findings(found: Sequence[Finding]) -> list[FindingView]:
    return [
        FindingView(layer=each.layer, category=each.category, score=each.score, source=each.source)
        for each in found
    ]


def _second_look(look: SecondLook | None) -> SecondLookView | None:
    if look is None:
        return None
    return SecondLookView(
        outcome=look.outcome,
        model=look.model,
        policy=look.policy,
        reason=look.reason,
        findings=_findings(look.findings),
        at=look.at,
    )


def _fields(review: Review) -> dict[str, Any]:
    case, decision, appeal = review.case, review.decision, review.appeal
    return {
        "name": review.name,
        "state": review.state,
        "severity": review.severity,
        "created_at": review.created_at,
        "policy": case.verdict.policy,
        "verdict": case.verdict.state,
        "layer": case.verdict.layer,
        "categories": list(case.verdict.categories),
        "score": case.verdict.score,
        "away": list(case.verdict.away),
        "prompt": case.prompt,
        "model": case.model,
        "width": case.width,
        "height": case.height,
        "seed": case.seed,
        "content_type": case.content_type,
        "size_bytes": case.size_bytes,
        "tenants": sorted({job.tenant for job in review.jobs}),
        "votes": [
            VoteView(choice=vote.choice, by=vote.by, name=vote.name, note=vote.note, at=vote.at)
            for vote in review.votes
        ],
        "decision": None
        if decision is None
        else DecisionView(
            id=decision.id,
            choice=decision.choice,
            by=decision.by,
            name=decision.name,
            note=decision.note,
            at=decision.at,
        ),
        "appeal": None if appeal is None else AppealView(reason=appeal.reason, at=appeal.at),
        "second_look": _second_look(review.second_look),
        "picture": picture_path(review.name),
        "undoable": review.state is not ReviewState.WAITING and not review.discarded,
    }
