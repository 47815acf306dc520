"""Documents: what Redis stores and RabbitMQ carries. The previous and the next version read them too.

Writing is strict, reading is lenient. A reader keeps fields that it does not know and passes them on,
so a document loses nothing on its way through an older process. Some new fields must not be ignored:
a reader that ignores them would do the wrong thing. A writer that uses such a field sets `min_schema`.
A reader with a lower `SCHEMA` leaves the document to a newer process and counts no attempt.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

SCHEMA: Final = 2
"""The schema of this version.

It rises by one with each field, or value of a field, that must not be ignored. 2: the images of a
request whose `moderation` is `in_review` are held, and those that cannot be judged by its `policy`.
"""


class Frozen(BaseModel):
    """A value of this process only. It refuses unknown fields."""

    # An invalid value may be a prompt: the error must not repeat it.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class Document(Frozen):
    """A value that other versions write as well. It keeps unknown fields."""

    model_config = ConfigDict(extra="allow")


def _is_first(schema: object) -> bool:
    return schema == 1


class Versioned(Document):
    """A document that may need a newer reader. Without `min_schema` every version can act on it."""

    min_schema: Annotated[int, Field(ge=1)] = Field(default=1, exclude_if=_is_first)
    """The lowest `SCHEMA` of a reader that may act on this document."""

    @property
    def readable(self) -> bool:
        """Whether this version may act on the document."""
        return self.min_schema <= SCHEMA
