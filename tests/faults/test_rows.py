"""A few rows of the list of faults, one round each, and the mutants that the checker must notice. `make chaos` plays all."""

from __future__ import annotations

import pytest

from tests.faults.catalogue import BY_NUMBER, MUTANTS, QUICK, QUICK_JOBS
from tests.faults.round import play
from tests.faults.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("number", QUICK, ids=lambda number: BY_NUMBER[number].title)
def test_what_must_hold_holds(site: Site, number: int) -> None:
    row = BY_NUMBER[number]
    history, violations = play(site, row, 0, min(QUICK_JOBS, row.jobs))
    assert violations == [], site.logs()
    assert history.accepted, "something was at stake"


@pytest.mark.parametrize("mutant", ["ack_first", "no_fence", "no_mandatory", "no_hold"])
def test_a_broken_promise_is_noticed(site: Site, mutant: str) -> None:
    row = BY_NUMBER[MUTANTS[mutant]]
    _, violations = play(site, row, 0, min(QUICK_JOBS, row.jobs), (mutant,))
    assert violations != []
