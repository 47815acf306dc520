"""The port of the reviews: images that wait for a person, and what people decided.

The transition that ends a job records its reviews in the same step, so none is lost or recorded twice. A
decision is first written to the review. It is then due to be carried out (`moderation/carrying.py`), by any
process and any number of times, until `settle` says that it is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from contracts.jobs import JobResult
from contracts.pictures import PictureRecord
from contracts.reviews import Appeal, Decision, PastDecision, Review, ReviewState, Severity, Vote


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a review. `severity` and `appeal` None: they stay as they are.

    `due`: the decision is to be carried out. `discard_s`: after how many seconds the file of a refused
    image is to be deleted; None: never. A review that waits is over by itself at the end of its retention.
    """

    state: ReviewState
    votes: tuple[Vote, ...]
    decision: Decision | None = None
    severity: Severity | None = None
    appeal: Appeal | None = None
    due: bool = False
    discard_s: float | None = None
    discarded: bool = False


@dataclass(frozen=True, slots=True)
class Queue:
    """How many images wait for a person, and since when the oldest does (Unix seconds; None: none)."""

    waiting: int
    oldest_at: float | None


class ReviewStore(Protocol):
    """Reviews, and decisions by the hash of an image.

    Every coroutine raises `contracts.errors.StoreUnavailable` when the store is away or slow.
    """

    async def page(
        self, limit: int, after: str = "", *, decided: bool = False
    ) -> tuple[Sequence[Review], str]:
        """Up to `limit` reviews that wait, the gravest first and then the oldest; with `decided`, those that
        people have decided, the newest first. `after` is the cursor that the call before answered. Answers
        the reviews and the next cursor; empty: there are no more. Raises `ValueError` for another cursor.
        """
        ...

    async def find(self, name: str) -> Sequence[Review]:
        """The reviews of the image with the file name `name`: at most one for each digit of job ids."""
        ...

    async def of_job(self, job_id: str, index: int) -> str | None:
        """The file name of a job's image `index`, if it is or was held; else None."""
        ...

    async def change(self, review: Review, change: Change) -> bool:
        """Write the change, unless the review has changed since it was read. Answers whether it was written."""
        ...

    async def due(self, limit: int) -> Sequence[str]:
        """File names of images whose decision is to be carried out, the oldest first."""
        ...

    async def discards(self, limit: int) -> Sequence[str]:
        """Ids (`Review.id`) of reviews that are over: of refused images whose files are to be deleted now, and
        of images that nobody has decided on."""
        ...

    async def renew(self, review: Review, keep_s: float) -> bool:
        """Keep a review that waits, and its jobs, for `keep_s` seconds from now, and note that it is over.

        Answers false if it does not wait.
        """
        ...

    async def apply(
        self,
        job_id: str,
        before: JobResult,
        after: JobResult,
        picture: PictureRecord | None,
        hidden: str = "",
    ) -> bool:
        """Write a job's result as people decided, and tell its owner by event and webhook.

        With `picture`, the search index is told. With `hidden`, the file name of an image, its record for the index
        is deleted, and the index owed its deletion. Answers whether the result was still as `before`.
        """
        ...

    async def settle(self, review: Review) -> bool:
        """The decision is carried out. Answers false if the review has changed since it was read."""
        ...

    async def forget(self, name: str) -> None:
        """Nothing is due for an image that has no review any more."""
        ...

    async def erase(self, member: str, tenant: str, job_ids: Iterable[str]) -> bool:
        """Take jobs of a tenant out of a review (`Review.id`). The review goes with its last job.

        Answers whether it is gone.
        """
        ...

    async def past(self, names: Iterable[str]) -> Mapping[str, PastDecision]:
        """What people decided on these images before, by file name. Others are left out, and those that wait again."""
        ...

    async def remember(self, name: str, decision: PastDecision) -> None:
        """Keep what people decided on an image, unless something later is kept: a process may be behind."""
        ...

    async def queue(self) -> Queue:
        """How long the queue is."""
        ...

    async def count_once(self, kind: str, holder: str, member: str, limit: int) -> bool:
        """Whether `holder` may do one more thing of a kind today (UTC). The same `member` counts once."""
        ...
