"""A scan: the policy in force is applied to all images that are stored, cached or recorded.

A `Scan` is the document from which a scan goes on after its process has died. Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from contracts.documents import Document, Frozen
from contracts.moderation import Finding


class Phase(StrEnum):
    """What a scan goes over, in this order."""

    JOBS = "jobs"
    """The records of jobs."""
    PICTURES = "pictures"
    """The records of images for the search index: imported ones, and those whose jobs have expired."""
    FILES = "files"
    """Files that no record names."""
    RESULTS = "results"
    """Cached results."""
    LATE = "late"
    """Jobs that were recorded meanwhile, answered from the cache."""


class Outcome(StrEnum):
    """What a scan makes of an image, the gravest last."""

    GONE = "gone"
    """It was deleted meanwhile."""
    PASSED = "passed"
    TAGGED = "tagged"
    DECIDED = "decided"
    """People have released it."""
    UNJUDGED = "unjudged"
    """A layer could not look, or the file cannot be read. It stays as it is."""
    HELD = "held"
    BLOCKED = "blocked"
    """By the policy, or by people who refused it before."""


GRAVITY: Final[Mapping[Outcome, int]] = {outcome: place for place, outcome in enumerate(Outcome)}
TAKEN_AWAY: Final = frozenset({Outcome.HELD, Outcome.BLOCKED})


class Seen(Document):
    """What a scan has made of an image: the gravest outcome of all that show it.

    `findings` are kept for images that are taken away, whose file cannot be looked at again.
    """

    outcome: Outcome
    findings: tuple[Finding, ...] = ()


class Scope(Frozen):
    """What a scan goes over. `since`: images stored then or later; `tenant` None: those of all."""

    since: float = 0.0
    tenant: str | None = None
    dry_run: bool = False


class Scan(Document):
    """How far a scan has come."""

    id: str
    policy: str
    """The policy, as `name@version`."""
    looks: str
    """A digest of the policy and of all that looks by it."""
    since: float = 0.0
    tenant: str | None = None
    dry_run: bool = False
    by: str
    """Who began it."""
    begun_at: float
    ended_at: float | None = None
    phase: Phase = Phase.JOBS
    cursor: str = ""
    server: str = ""
    """The process of the state Redis to which the cursor belongs."""
    looked: Annotated[int, Field(ge=0)] = 0
    """How many images layers have looked at."""
    images: dict[Outcome, int] = Field(default_factory=dict)
    """How many images had each outcome."""
    jobs: int = 0
    """How many records of jobs and images were changed."""
    results: int = 0
    """How many cached results were dropped."""

    @property
    def scope(self) -> Scope:
        """What it goes over."""
        return Scope(since=self.since, tenant=self.tenant, dry_run=self.dry_run)
