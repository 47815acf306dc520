"""What a diagnosis finds: one line each, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis; `mend` says what to do."""

    grade: Grade
    what: str
    mend: str = ""


def ok(what: str) -> Finding:
    return Finding(Grade.OK, what)


def warn(what: str, mend: str) -> Finding:
    return Finding(Grade.WARNING, what, mend)


def fault(what: str, mend: str) -> Finding:
    return Finding(Grade.FAULT, what, mend)
