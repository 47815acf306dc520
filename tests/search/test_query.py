"""What a search asks of the index: no server."""

from __future__ import annotations

from contracts.search import Filters
from search.query import where_of
from tests.search.made import record


def test_the_end_of_a_time_range_is_exclusive_and_its_beginning_inclusive() -> None:
    made = record(1)
    at = made.created_at
    found = [
        where_of(Filters(created_after=after, created_before=before), now=2000.0, as_of=2000.0).matches(made)
        for after, before in ((at, None), (None, at), (at - 1, at), (None, at + 1e-6))
    ]
    assert found == [True, False, False, True]


def test_no_later_page_has_images_made_after_the_first() -> None:
    made = record(1)
    at = made.created_at
    assert where_of(Filters(), now=2000.0, as_of=at).matches(made)
    assert not where_of(Filters(), now=2000.0, as_of=at - 1).matches(made)
    assert not where_of(Filters(created_before=at + 1), now=2000.0, as_of=at - 1).matches(made)
