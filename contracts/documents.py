"""Documents: what Redis stores and RabbitMQ carries, read by processes of this version, the last one and the next.

Writing is strict, reading is lenient. A reader keeps the fields that it does not know and passes them on, so that a document
loses nothing on its way through an older process. A writer that asks for more than the field it adds (`a reader that ignores
this field would do the wrong thing`) says so in `min_schema`: a reader that knows less leaves the document to one that knows
more, and counts nothing against it.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

SCHEMA: Final = 1
"""What this version knows. It rises by one with each field, or value of a field, that must not be ignored."""


class Frozen(BaseModel):
    """A value of this process alone: unknown fields are refused."""

    # What does not validate may be a prompt: the error must not repeat it.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class Document(Frozen):
    """A value that other versions write as well: unknown fields are kept."""

    model_config = ConfigDict(extra="allow")


def _is_first(schema: object) -> bool:
    return schema == 1


class Versioned(Document):
    """A document that may ask for more than an older reader knows. Without `min_schema` every version can act on it."""

    min_schema: Annotated[int, Field(ge=1)] = Field(default=1, exclude_if=_is_first)
    """The least `SCHEMA` that a reader must know to act on this document."""

    @property
    def readable(self) -> bool:
        """Whether this version may act on it."""
        return self.min_schema <= SCHEMA
