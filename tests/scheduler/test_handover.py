"""When the next batch is handed to a busy engine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.engine import BatchKey
from scheduler.handover import LAST_MOMENT_S, Candidate, due_in_s, is_full, last_moment_s
from scheduler.policy import ANYONE

SMALL, WIDE = (BatchKey("m", width, 64, guided=False) for width in (64, 96))
seconds = st.floats(0, 100)


@given(seconds, seconds, seconds, seconds, st.booleans())
def test_a_full_batch_goes_no_earlier_than_its_images_are_wanted(
    now: float, ends_at: float, lead_s: float, moment_s: float, coming: bool
) -> None:
    due_s = due_in_s(now, ends_at, full=True, coming=coming, lead_s=lead_s, moment_s=moment_s)
    assert due_s is not None
    assert due_s >= 0
    assert due_s == 0 or now + due_s == pytest.approx(ends_at - lead_s, abs=1e-9)


@given(seconds, seconds, seconds, seconds, st.booleans())
def test_one_with_room_left_goes_in_the_last_moment_or_waits_for_those_who_come(
    now: float, ends_at: float, lead_s: float, moment_s: float, coming: bool
) -> None:
    due_s = due_in_s(now, ends_at, full=False, coming=coming, lead_s=lead_s, moment_s=moment_s)
    if now < ends_at - moment_s:
        assert due_s is not None
        assert now + due_s == pytest.approx(ends_at - moment_s, abs=1e-9)
    else:
        assert due_s == (None if coming else 0.0)


def test_the_last_moment_covers_what_predictions_miss_by() -> None:
    assert last_moment_s(0.0) == LAST_MOMENT_S
    assert last_moment_s(0.004) == LAST_MOMENT_S + 0.004


def test_a_batch_is_full_of_those_that_share_it_with_the_smallest_tag() -> None:
    lead = Candidate(SMALL, ANYONE, 0.0)
    others = [Candidate(WIDE, ANYONE, 1.0)] * 4
    assert not is_full([], lambda _: 1)
    assert not is_full([lead, *others], lambda _: 2)
    assert is_full([lead, Candidate(SMALL, ANYONE, 9.0), *others], lambda _: 2)
    assert not is_full([lead, Candidate(SMALL, 7, 9.0), *others], lambda _: 2), (
        "one set apart shares no batch with it"
    )
    assert is_full([*others, Candidate(SMALL, ANYONE, 2.0)], lambda key: 4 if key == WIDE else 9)
