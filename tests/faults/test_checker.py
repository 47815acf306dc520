"""The judge itself: each violation is seen, alone, and a good history has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.catalogue import BY_NUMBER, MUTANTS, QUICK, selected
from tests.faults.checker import check, recovery_s
from tests.faults.history import Counts, Final, History, Submit
from tests.faults.report import caught

ALL = "ALDXTR"


def good() -> History:
    """Twenty jobs, one a tenth of a second, around a fault at 1.0 that was healed at 1.2."""
    history = History(row=1, seed=0, faults=[(1001.0, "a fault")], healed=1001.2, in_flight=2)
    for number in range(20):
        at = 1000 + number / 10
        job_id = f"job_{number}"
        history.submits.append(Submit(number, at, 0.01, "accepted", 202, job_id=job_id))
        history.finals[job_id] = Final("succeeded", at, at + 60, at + 0.2, 1, seen="succeeded")
        history.terminal_events[job_id] = 1
        history.computations[number] = 1
    history.submits.append(Submit(20, 1001.1, 0.01, "refused", 503, "broker_unavailable"))
    history.submits.append(Submit(21, 1001.1, 0.01, "unknown"))
    history.before = Counts(100, {"succeeded": 90, "withdrawn": 10}, 0)
    history.after = Counts(120, {"succeeded": 110, "withdrawn": 10}, 0)
    return history


def test_a_good_history_has_no_violations() -> None:
    assert check(good(), ALL) == []


def job(history: History, **changes: object) -> None:
    history.finals["job_3"] = replace(history.finals["job_3"], **changes)  # type: ignore[arg-type]


def _gone(history: History) -> None:
    del history.finals["job_3"]


def _terminal_twice(history: History) -> None:
    history.terminal_events["job_3"] = 2


def _more_ends_than_jobs(history: History) -> None:
    history.after = Counts(120, {"succeeded": 111, "withdrawn": 10}, 0)


def _one_unaccounted(history: History) -> None:
    history.after = Counts(120, {"succeeded": 109, "withdrawn": 10}, 0)


def _left_alive(history: History) -> None:
    history.after = Counts(120, {"succeeded": 109, "withdrawn": 10}, 1)


def _computed_again(history: History) -> None:
    history.computations[3] = 4


def _never_back(history: History) -> None:
    for number in range(10, 20):
        final = history.finals[f"job_{number}"]
        history.finals[f"job_{number}"] = replace(final, finished_at=1040.0 + 5 * number)


@pytest.mark.parametrize(
    ("letter", "damage"),
    [
        ("A", lambda history: job(history, status="queued")),
        ("A", _one_unaccounted),
        ("A", _left_alive),
        ("L", _gone),
        ("L", lambda history: job(history, status="expired", finished_at=1060.4, seen="expired")),
        ("D", _terminal_twice),
        ("D", _more_ends_than_jobs),
        ("D", lambda history: job(history, seen="failed")),
        ("X", _computed_again),
        ("T", lambda history: job(history, status="running")),
        ("T", lambda history: job(history, finished_at=1063.0)),
        ("T", lambda history: job(history, status="expired", finished_at=1030.0)),
        ("R", _never_back),
    ],
)
def test_each_violation_is_seen(letter: str, damage: Callable[[History], None]) -> None:
    history = good()
    damage(history)
    found = check(history, letter)
    assert found, "it must be noticed"
    assert all(violation.startswith(letter) for violation in found)


def test_a_property_that_is_not_asked_for_is_not_judged() -> None:
    history = good()
    _computed_again(history)
    assert check(history, "ALDTR") == []
    history.findings.append("row 1: its own")
    assert check(history, "") == ["row 1: its own"]


def test_recovery_counts_from_healing() -> None:
    history = good()
    assert recovery_s(history) == pytest.approx(0.8, abs=0.3)
    for number in range(10, 20):
        final = history.finals[f"job_{number}"]
        history.finals[f"job_{number}"] = replace(final, finished_at=1011.2 + number / 100)
    assert recovery_s(history) == pytest.approx(10.2, abs=0.2)


def test_the_catalogue_is_whole() -> None:
    assert set(QUICK) | set(MUTANTS.values()) <= set(BY_NUMBER)
    missing = {*range(1, 29), 45} - set(BY_NUMBER)
    assert missing == set(), "rows of the list without a round"
    assert [row.number for row in selected("1-3,39")] == [1, 2, 3, 39]
    assert not caught({"violations": ["harness: a traceback"]})
