"""Fusion, its reasons, and paging: no server, no clock."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidRequest
from contracts.pictures import SHARED
from search.fusion import DEPTH, Cursor, K, Rank, depth, digest, fuse, page, rerank
from search.index import MAX_COUNT, Key, Match

names = st.text("abcdef", min_size=1, max_size=2)
lists = st.lists(st.tuples(st.sampled_from(["a", SHARED]), names), max_size=30, unique=True).map(
    lambda keys: [Match(scope, name, 1.0 - at / 100) for at, (scope, name) in enumerate(keys)]
)


def matches(*found: str, scope: str = "a") -> list[Match]:
    return [Match(scope, name, 0.9 - at / 10) for at, name in enumerate(found)]


def test_a_picture_of_both_lists_is_before_those_of_one() -> None:
    hits = fuse(matches("x", "y", "z"), matches("z", "w"), ["a"])
    assert [hit.key.name for hit in hits] == ["z", "x", "y", "w"]
    assert hits[0].score == pytest.approx(1 / (K + 3) + 1 / (K + 1))
    assert (hits[0].vector, hits[0].words) == (Rank(3, 0.9 - 2 / 10), Rank(1, 0.9))
    assert (hits[1].vector, hits[1].words) == (Rank(1, 0.9), None)


def test_of_equal_scores_the_one_found_by_its_vector_comes_first() -> None:
    assert [hit.key.name for hit in fuse(matches("b"), matches("a"), ["a"])] == ["b", "a"]


def test_an_image_of_two_scopes_is_one_hit_of_the_earlier_scope() -> None:
    nearest = [Match(SHARED, "x", 0.9), Match("a", "x", 0.9), Match("a", "y", 0.8)]
    hits = fuse(nearest, matches("x", scope=SHARED), ["a", SHARED])
    assert [hit.key for hit in hits] == [Key("a", "x"), Key("a", "y")]
    assert hits[1].vector == Rank(2, 0.8), "counted once"
    assert [hit.key for hit in fuse(nearest, [], [SHARED, "a"])] == [Key(SHARED, "x"), Key("a", "y")]


@given(lists, lists)
def test_fusion_has_everything_once_and_in_order(nearest: list[Match], by_words: list[Match]) -> None:
    hits = fuse(nearest, by_words, ["a", SHARED])
    assert sorted(hit.key.name for hit in hits) == sorted({each.name for each in (*nearest, *by_words)})
    assert all(first.score >= then.score for first, then in itertools.pairwise(hits))
    keys = {each.key for each in (*nearest, *by_words)}
    assert all(hit.key in keys and (hit.vector or hit.words) for hit in hits)
    for places in ([hit.vector for hit in hits], [hit.words for hit in hits]):
        assert sorted(place.rank for place in places if place) == list(
            range(1, 1 + sum(place is not None for place in places))
        )


@given(lists, st.dictionaries(names, st.floats(-1, 1)))
def test_reranking_loses_nothing(nearest: list[Match], scores: dict[str, float]) -> None:
    hits = fuse(nearest, [], ["a", SHARED])
    told = {hit.key.name: scores[hit.key.name] for hit in hits if hit.key.name in scores}
    again = rerank(hits, told)
    assert sorted(hit.key for hit in again) == sorted(hit.key for hit in hits)
    assert [hit.score for hit in again] == [hit.score for hit in hits], "the best hit has the best score"
    first, rest = again[: len(told)], again[len(told) :]
    placed = sorted((hit.rerank for hit in first if hit.rerank), key=lambda place: place.rank)
    assert [place.score for place in placed] == sorted(told.values(), reverse=True)
    assert [place.rank for place in placed] == list(range(1, len(told) + 1))
    assert [hit.key for hit in rest] == [hit.key for hit in hits if hit.key.name not in told]


def test_the_second_model_replaces_the_first_and_not_the_words() -> None:
    nearest = [Match("a", name, 0.9) for name in "xyz"]
    scores = {"x": 0.1, "y": 0.8, "z": 0.9}
    assert [hit.key.name for hit in rerank(fuse(nearest, [], ["a"]), scores)] == ["z", "y", "x"]
    worded = fuse(nearest, [Match("a", "y", 3.0)], ["a"])
    assert [hit.key.name for hit in rerank(worded, scores)] == ["y", "z", "x"]
    assert [hit.key.name for hit in rerank(worded, {})] == [hit.key.name for hit in worded]


@given(st.integers(0, 60), st.integers(1, 25))
def test_pages_have_every_hit_once(count: int, limit: int) -> None:
    hits = fuse([Match("a", f"{at:03}", 1 - at / 1000) for at in range(count)], [], ["a"])
    bound, found, cursor = digest(["a"], {"q": "x"}), list[str](), None
    for _ in range(count + 2):
        some, cursor = page(hits, limit, cursor, bound, 5.0, complete=True)
        found += [hit.key.name for hit in some]
        if cursor is None:
            break
        assert len(some) == limit
        cursor = Cursor.parse(cursor.text(), bound)
        assert cursor.as_of == 5.0
    assert cursor is None
    assert found == [hit.key.name for hit in hits]


def test_a_page_goes_on_after_its_last_hit_when_others_have_gone_or_come() -> None:
    bound = digest(["a"], {})
    whole = fuse([Match("a", name, 0.5) for name in "abcdef"], [], ["a"])
    _, cursor = page(whole, 3, None, bound, 1.0, complete=True)
    assert cursor is not None
    for left in ("bcdef", "cdef", "zabcdef"):
        hits = fuse([Match("a", name, 0.5) for name in left], [], ["a"])
        hits.sort(key=lambda hit: left.index(hit.key.name))
        some, _ = page(hits, 2, cursor, bound, 2.0, complete=True)
        assert [hit.key.name for hit in some] == ["d", "e"]
    without = [hit for hit in whole if hit.key.name != "c"]
    assert page(without, 2, cursor, bound, 2.0, complete=True)[0][0].key.name == "e", "by the offset"


def test_a_list_that_may_go_on_has_a_next_page() -> None:
    hits = fuse([Match("a", f"{at:03}", 1 - at / 1000) for at in range(DEPTH)], [], ["a"])
    some, cursor = page(hits, DEPTH, None, "q", 1.0, complete=False)
    assert len(some) == DEPTH
    assert cursor is not None
    assert (depth(0, 24), depth(76, 24), depth(cursor.offset, 24)) == (DEPTH, DEPTH, MAX_COUNT)
    assert page(hits, 24, cursor, "q", 1.0, complete=False) == ([], None)


def test_a_cursor_belongs_to_its_query() -> None:
    bound = digest(["a"], {"q": "rocket", "seed": 1})
    cursor = Cursor(query=bound, offset=3, last="x.png", as_of=1.5)
    assert Cursor.parse(cursor.text(), bound) == cursor
    others = [
        digest(["b"], {"q": "rocket", "seed": 1}),
        digest(["a", SHARED], {"q": "rocket", "seed": 1}),
        digest(["a"], {"q": "rockets", "seed": 1}),
        digest(["a"], {"q": "rocket"}),
    ]
    assert len({bound, *others}) == 5
    for other in others:
        with pytest.raises(InvalidRequest, match="another search"):
            Cursor.parse(cursor.text(), other)
    assert digest(["a"], {"seed": 1, "q": "rocket"}) == bound
    assert digest(["a"], {"q": "\ud800"})


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
def test_a_cursor_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        Cursor.parse(text, "q")
    assert raised.value.param == "cursor"


@pytest.mark.parametrize(
    "fields",
    [
        ["q", -1, "x", 1.0],
        ["q", MAX_COUNT, "x", 1.0],
        ["q", 1, 5, 1.0],
        ["q", 1, "x"],
        {},
        ["q", 1, "x", None],
    ],
)
def test_a_cursor_with_other_fields_is_refused(fields: object) -> None:
    import base64
    import json

    text = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")
    with pytest.raises(InvalidRequest):
        Cursor.parse(text, "q")
