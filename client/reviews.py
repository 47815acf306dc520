"""Typed answers of the calls for reviewers of held images. No I/O."""

from __future__ import annotations

from typing import Any, Literal

from client.models import Answer

PATH = "/v1/admin/moderation"
Choice = Literal["release", "refuse"]


class ReviewDecision(Answer):
    """What was decided. `choice` None: an earlier decision was undone."""

    choice: Choice | None
    by: str
    name: str = ""
    note: str = ""
    at: float


class ReviewAppeal(Answer):
    """The owner's objection."""

    reason: str
    at: float


class ReviewJob(Answer):
    """A job that has the image, at these places."""

    id: str
    tenant: str
    indexes: tuple[int, ...]


class ReviewSecondLook(Answer):
    """What a model said of a held image before people saw it. `outcome` is its advice (`release`, `refuse`,
    `review`), or says why there is none."""

    outcome: str
    model: str
    reason: str = ""
    findings: tuple[dict[str, Any], ...] = ()
    at: float


class Review(Answer):
    """A held image. `state` is waiting, released or refused; `severity` is 1 to 4, the gravest."""

    name: str
    state: str
    severity: int
    created_at: float
    policy: str
    layer: str | None = None
    categories: tuple[str, ...] = ()
    score: float | None = None
    prompt: str
    model: str
    width: int
    height: int
    seed: int
    content_type: str
    size_bytes: int
    tenants: tuple[str, ...] = ()
    votes: tuple[dict[str, Any], ...] = ()
    decision: ReviewDecision | None = None
    appeal: ReviewAppeal | None = None
    second_look: ReviewSecondLook | None = None
    """None: no model has looked."""
    picture: str
    """Where a reviewer gets the bytes of the image."""
    undoable: bool = False
    findings: tuple[dict[str, Any], ...] = ()
    """As `jobs`, only of a single review."""
    jobs: tuple[ReviewJob, ...] = ()


class ReviewPage(Answer):
    """One page of held images; `next_cursor` is None on the last page. `waiting` is how many wait in all."""

    data: tuple[Review, ...]
    next_cursor: str | None
    waiting: int
    oldest_at: float | None = None
    reviewers: int = 1


class TrailEntry(Answer):
    """One entry of the audit trail of moderation."""

    number: int
    id: str
    at: float
    what: dict[str, Any]
    previous: str
    hash: str
    signature: str = ""


class TrailPage(Answer):
    """A part of the audit trail. `fault` says what is wrong with it; None: nothing."""

    data: tuple[TrailEntry, ...]
    fault: str | None = None


class Appealed(Answer):
    """An appeal was noted. `verdict` is what holds for the image now."""

    job_id: str
    index: int
    verdict: str


def paged(
    state: str, limit: int, after: str | None, category: str | None, tenant: str | None, min_severity: int
) -> dict[str, str]:
    """Returns the query of a list of reviews."""
    given = {"after": after, "category": category, "tenant": tenant}
    return {
        "state": state,
        "limit": str(limit),
        "min_severity": str(min_severity),
        **{name: value for name, value in given.items() if value is not None},
    }
