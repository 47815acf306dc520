"""Images that wait for a person: what is recorded of them, and what people decided.

The transition that ends a job records one review for each image that a policy holds
(`contracts.moderation`). A review is found by the file name of its image, `<sha256>.<extension>`, and by
the last digit of its jobs' ids, which says where it lies. Times are Unix seconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from contracts.documents import Document, Frozen
from contracts.moderation import Finding, Verdict
from contracts.pictures import PictureRecord

MAX_NOTE_CHARS: Final = 1000
"""The longest note of a decision, and the longest reason of an appeal."""
APPEALED: Final = 4
"""The severity of an image whose owner has appealed. It comes first."""
Severity = Annotated[int, Field(ge=1, le=APPEALED)]
"""How urgent a review is, 4 the most (`moderation.held.severity_of`)."""


class ReviewState(StrEnum):
    """What people decided on an image."""

    WAITING = "waiting"
    RELEASED = "released"
    REFUSED = "refused"


LATER_S: Final = 0.001
"""The least time between two changes of one review, in seconds."""
Choice = Literal["release", "refuse"]
"""What a reviewer may choose."""
OUTCOMES: Final[dict[Choice, ReviewState]] = {
    "release": ReviewState.RELEASED,
    "refuse": ReviewState.REFUSED,
}


LookOutcome = Literal["release", "refuse", "review", "away", "garbled", "over_budget", "too_late"]
"""How the second look at an image ended. The first three are answers of the model, of which `review` leaves
the image to people. `away`: the endpoint did not answer. `garbled`: it answered something else than was
asked. `over_budget`: there were too many calls this hour. `too_late`: the deadline had passed."""
ANSWERS: Final[frozenset[LookOutcome]] = frozenset({"release", "refuse", "review"})
SECOND_LOOK: Final = "second-look:"
"""What `Vote.by` begins with where a model voted. The model's name follows."""


class SecondLook(Document):
    """What a heavier model said of a held image before people saw it, or why it said nothing."""

    outcome: LookOutcome
    model: str
    policy: str
    """The policy, as `name@version`, by which the scores were judged."""
    reason: str = ""
    """The model's own words. They may be about anything that the image says."""
    findings: tuple[Finding, ...] = ()
    at: float

    @property
    def answered(self) -> bool:
        """Whether the model answered. Then it is not asked again."""
        return self.outcome in ANSWERS

    @property
    def advice(self) -> Choice | None:
        """What the model advises; None: nothing."""
        return self.outcome if self.outcome in ("release", "refuse") else None


class HeldCase(Document):
    """What a reviewer is shown of an image besides the image."""

    verdict: Verdict
    prompt: str
    negative_prompt: str = ""
    model: str
    lora: str = ""
    width: int
    height: int
    seed: int
    content_type: str
    size_bytes: int
    picture: PictureRecord | None = None
    """What the search index is told once the image is released."""
    drawn: str = ""
    """The name of its file before it was signed. What people decide is kept by this name; empty: by the image's."""


class HeldImage(Frozen):
    """A held image of a job that ends, or one that is shown because people have released it before (`released`).
    `indexes` are its places among the job's images."""

    name: str
    indexes: tuple[int, ...]
    severity: Severity
    keep_s: float
    """For how many seconds its file is kept, and the review with it."""
    case: HeldCase
    second_look: bool = False
    """Whether a heavier model looks at it before people do."""
    released: bool = False


class Vote(Document):
    """One reviewer's choice. `by` is the id of the reviewer's API key, the person (`issuer#subject`), or
    `second-look:MODEL`. `name` is what the key or the person is called."""

    choice: Choice
    by: str
    name: str = ""
    note: str = ""
    at: float


class Decision(Document):
    """What was decided. `id` is unique; `choice` None: a decision was undone. `by` and `name` are those of
    the reviewer whose vote was the last that it took. Both are empty where the image was refused because
    nobody decided, or because its file is gone: the note says which."""

    id: str
    choice: Choice | None
    by: str
    name: str = ""
    note: str = ""
    votes: tuple[Vote, ...]
    at: float

    @property
    def by_reviewer(self) -> bool:
        """Whether a reviewer has decided: a person, or a model that may."""
        return bool(self.by)


class Appeal(Document):
    """The owner's objection to a verdict."""

    tenant: str
    job_id: str
    reason: str
    at: float


class ShowingJob(Frozen):
    """A job that has the image, at these places."""

    id: str
    tenant: str
    indexes: tuple[int, ...]


class Review(Frozen):
    """One image that is or was held, and what was decided. `version` changes with the record."""

    name: str
    digit: str
    version: int
    state: ReviewState
    severity: Severity
    created_at: float
    case: HeldCase
    jobs: tuple[ShowingJob, ...]
    votes: tuple[Vote, ...] = ()
    decision: Decision | None = None
    appeal: Appeal | None = None
    second_look: SecondLook | None = None
    discarded: bool = False
    """Whether the file of a refused image is deleted. Then the refusal cannot be undone."""
    over: bool = False
    """Whether the retention of its jobs is over, and it waits only for a younger review of the image."""

    @property
    def id(self) -> str:
        """The name under which the record lies."""
        return f"{self.name}:{self.digit}"

    @property
    def decided_as(self) -> str:
        """The name by which people's decisions on the image are kept."""
        return self.case.drawn or self.name

    @property
    def changed_at(self) -> float:
        """When people last changed the state of the image (Unix seconds); 0: never."""
        return max(each.at if each is not None else 0.0 for each in (self.decision, self.appeal))

    def after(self, now: float) -> float:
        """The time `now`, or a moment after the last change: the clocks of two processes differ."""
        return max(now, self.changed_at + LATER_S)


class PastDecision(Document):
    """A decision on an image, by its hash, for images that are drawn later. `WAITING`: it was taken back."""

    state: ReviewState
    decision_id: str
    at: float
    by_model: bool = False
    """Whether a second look decided, and no person."""
