"""Clicks move hits, and not far."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from search.clicks import MAX_RISE, moved, shares
from search.fusion import Hit, fuse
from search.index import Match

NAMES = [f"{number:03}" for number in range(100)]
COUNTS = st.dictionaries(st.sampled_from([*NAMES, "elsewhere"]), st.integers(1, 10**9), max_size=30)


def hits() -> list[Hit]:
    return fuse([Match("a", name, 1.0 - int(name) / 100) for name in NAMES], [], ["a"])


def names(found: list[Hit]) -> list[str]:
    return [hit.key.name for hit in found]


@given(COUNTS)
def test_nothing_is_lost_and_nothing_moves_far(counts: dict[str, int]) -> None:
    before, after = hits(), moved(hits(), counts)
    assert sorted(names(after)) == names(before)
    assert [hit.score for hit in after] == [hit.score for hit in before]
    place = {name: at for at, name in enumerate(names(after))}
    for at, name in enumerate(names(before)):
        # Only those that stand up to MAX_RISE places behind can come before it.
        assert place[name] <= at + min(len(counts), MAX_RISE)
        for behind in names(before)[at + MAX_RISE + 1 :]:
            assert place[name] < place[behind]


@given(COUNTS)
def test_more_clicks_never_place_a_hit_lower(counts: dict[str, int]) -> None:
    more = {**counts, "050": counts.get("050", 0) + 10}
    assert names(moved(hits(), more)).index("050") <= names(moved(hits(), counts)).index("050")


def test_one_click_is_little_and_many_are_much() -> None:
    assert names(moved(hits(), {"010": 1})).index("010") == 7
    assert names(moved(hits(), {"010": 100})).index("010") == 0
    assert names(moved(hits(), {"050": 10**6})).index("050") == 50 - MAX_RISE + 1
    assert names(moved(hits(), {})) == NAMES


def test_a_hit_says_its_clicks() -> None:
    after = {hit.key.name: hit.clicks for hit in moved(hits(), {"003": 3, "001": 2, "elsewhere": 5})}
    first, second = after["003"], after["001"]
    assert first is not None
    assert second is not None
    assert (first.rank, second.rank) == (1, 2)
    assert (first.score, second.score) == (3 / 15, 2 / 15)
    assert after["000"] is None


@given(COUNTS)
def test_shares_are_smoothed(counts: dict[str, int]) -> None:
    assert all(0 < share < 1 for share in shares(counts).values())
    assert sum(shares(counts).values()) < 1
