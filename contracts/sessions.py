"""Sessions of people who have signed in by OpenID Connect."""

from __future__ import annotations

import hashlib
from typing import Final

from contracts.documents import Versioned
from contracts.tenancy import Scope

MAX_NAME_CHARS: Final = 100
"""The longest name that is shown of a person."""
MAX_SUBJECT_CHARS: Final = 255
"""The longest subject (OpenID Connect Core 1.0, section 2)."""


EVERYBODY: Final = "everybody"
"""In place of a person's id: all people."""


class Session(Versioned):
    """One person, signed in in one browser. Times are Unix seconds.

    `issuer` and `subject` are the person: no other attribute stays the same for good (OpenID Connect
    Core 1.0, section 5.7). `name` is only shown.
    """

    issuer: str
    subject: str
    name: str
    scopes: tuple[Scope, ...]
    began_at: float
    ends_at: float

    @property
    def person(self) -> str:
        """The person, as audit trails name them: `issuer#subject`."""
        return f"{self.issuer}#{self.subject}"

    @property
    def person_id(self) -> str:
        """A name of the person for logs, which does not tell who it is."""
        return person_id_of(self.person)


def person_id_of(person: str) -> str:
    """The name for logs of a person, `issuer#subject`."""
    return f"person_{hashlib.sha256(person.encode()).hexdigest()[:16]}"
