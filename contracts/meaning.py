"""What the API asks the process that reads the meaning of prompts, and what it answers."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from contracts.documents import Document
from contracts.moderation import Finding
from contracts.requests import MAX_TEXT_CHARS

MAX_TEXTS: Final = 64
"""The most texts of one call."""

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]


class MeaningQuery(Document):
    """Texts to look at."""

    texts: Annotated[tuple[Text, ...], Field(min_length=1, max_length=MAX_TEXTS)]


class MeaningAnswer(Document):
    """What each text was found to mean, in the order of the query.

    A finding for every head of the policy, whatever its score: thresholds are the policy's.
    """

    policy: str
    """The policy of the process that answers, as `name@version`."""
    findings: tuple[tuple[Finding, ...], ...]
