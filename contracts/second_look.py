"""Second looks that are owed: a heavier model looks at a held image before people do."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from contracts.documents import Document, Frozen


class LookCall(Document):
    """The message on the queue: make attempt number `attempt`, from 1, at a review (`Review.id`).

    It may be lost; the outbox repeats it.
    """

    review: str
    attempt: Annotated[int, Field(ge=1)]

    @property
    def name(self) -> str:
        """The file name of the image."""
        return self.review.rpartition(":")[0]


class LookDuty(Frozen):
    """A granted attempt: ask the model, then `settle` the call. `owed_at`: since when the image is held, in
    Unix seconds."""

    call: LookCall
    owed_at: float
