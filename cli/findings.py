"""The findings of `darkroom doctor`: one line each, with what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """How bad a finding is. Only a fault changes the exit code."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. `what` states it, `mend` says what to do."""

    grade: Grade
    what: str
    mend: str = ""


def ok(what: str) -> Finding:
    """Returns a finding that needs no action."""
    return Finding(Grade.OK, what)


def warn(what: str, mend: str) -> Finding:
    """Returns a finding that may become a fault."""
    return Finding(Grade.WARNING, what, mend)


def fault(what: str, mend: str) -> Finding:
    """Returns a finding that must be repaired."""
    return Finding(Grade.FAULT, what, mend)
