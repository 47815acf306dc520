"""The contract of the picture index, on every engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import StoreUnavailable
from contracts.pictures import SHARED
from search.index import IndexMismatch, Key, PictureIndex
from search.where import Where
from tests.search.engines import Engine, opened
from tests.search.made import CLIP, DIMENSIONS, name_of, record, vector

pytestmark = pytest.mark.anyio


async def test_a_picture_is_found_by_its_vector_and_by_its_words(index: PictureIndex, engine: Engine) -> None:
    await index.put(
        [
            record(number, prompt=text)
            for number, text in enumerate(["a red rocket", "a blue car", "a rocket"])
        ]
    )
    nearest = await index.nearest(["a"], vector(1), 2)
    assert nearest[0].key == Key("a", name_of(1))
    assert nearest[0].score == pytest.approx(1.0, abs=engine.slack)
    assert len(nearest) == 2
    found = await index.by_words(["a"], "Red ROCKETS!", 10)
    assert [each.name for each in found] == [name_of(0), name_of(2)]
    assert found[0].score > found[1].score > 0


async def test_a_record_comes_back_as_it_was_put(index: PictureIndex) -> None:
    lean = record(1, prompt="", model="", seed=None)
    full = record(
        2,
        SHARED,
        prompt="quotes \"' \\ line\nbreak \x00 ☃ 🚀",
        lora="pixel",
        seed=2**53 - 1,
        width=4096,
        height=1,
        source="imported",
        job_id="job_1",
        origin="https://example.org/a?b=c",
        created_at=1_700_000_000.123,
    )
    newer = full.model_copy(update={"name": name_of(3), "from_a_newer_version": [1, {"a": None}]})
    assert list(await index.put([lean, full, newer])) == []
    assert await index.get("a", lean.name) == lean
    assert await index.get(SHARED, full.name) == full
    keys = [Key(SHARED, newer.name), Key("a", newer.name), Key("nobody", lean.name), Key("a", lean.name)]
    assert list(await index.get_many(keys)) == [newer, None, None, lean]
    assert list(await index.get_many([])) == []


async def test_a_put_is_idempotent_and_replaces(index: PictureIndex, engine: Engine) -> None:
    await index.put([record(number) for number in range(6)])
    await index.put([record(number) for number in range(6)])
    assert await index.count() == 6
    changed = record(2, turned=77, prompt="something else", model="other")
    await index.put([changed])
    await index.put([changed, changed])
    assert await index.count("a") == 6
    assert await index.get("a", name_of(2)) == changed
    assert (await index.nearest(["a"], vector(77), 1))[0].key == Key("a", name_of(2))
    assert len(await index.nearest(["a"], vector(2), 100)) == 6
    assert [each.name for each in await index.by_words(["a"], "else", 10)] == [name_of(2)]
    assert name_of(2) not in {each.name for each in await index.by_words(["a"], "picture 2", 10)}
    assert [each.name for each in await index.nearest(["a"], vector(2), 9, Where(model="other"))] == [
        name_of(2)
    ]


async def test_of_two_records_of_one_picture_in_one_put_the_last_holds(index: PictureIndex) -> None:
    await index.put([record(1, prompt="first"), record(1, turned=5, prompt="second")])
    assert await index.count() == 1
    assert await index.by_words(["a"], "first", 10) == []
    assert len(await index.by_words(["a"], "second", 10)) == 1
    assert len(await index.nearest(["a"], vector(5), 10)) == 1


async def test_a_deleted_picture_is_found_no_more(index: PictureIndex) -> None:
    await index.put([record(number) for number in range(8)])
    assert await index.delete("a", [name_of(3), name_of(3), name_of(4), name_of(99)]) == 2
    assert await index.delete("a", [name_of(3)]) == 0
    assert await index.delete("nobody", [name_of(5)]) == 0
    assert await index.delete("a", []) == 0
    assert await index.count() == await index.count("a") == 6
    assert await index.get("a", name_of(3)) is None
    assert {each.name for each in await index.nearest(["a"], vector(3), 100)} == {
        name_of(number) for number in (0, 1, 2, 5, 6, 7)
    }
    assert await index.by_words(["a"], "3", 10) == []
    await index.put([record(3)])
    assert (await index.nearest(["a"], vector(3), 1))[0].name == name_of(3)


async def test_scopes_see_nothing_of_each_other(index: PictureIndex, engine: Engine) -> None:
    await index.put(
        [record(1, "a"), record(1, "b"), record(2, "b"), record(3, SHARED), record(4, "tenant:ab")]
    )
    assert [each.key for each in await index.nearest(["a"], vector(2), 10)] == [Key("a", name_of(1))]
    assert {each.key for each in await index.nearest(["a", SHARED], vector(2), 10)} == {
        Key("a", name_of(1)),
        Key(SHARED, name_of(3)),
    }
    assert {each.key for each in await index.by_words(["b"], "picture", 10)} == {
        Key("b", name_of(1)),
        Key("b", name_of(2)),
    }
    for none in ([], ["c"], ["tenant:a"], ["*"], ["%"], ["tenant:_b"]):
        assert await index.nearest(none, vector(1), 10) == []
        assert await index.by_words(none, "picture", 10) == []
    assert len(await index.nearest(["a", "a"], vector(1), 10)) == 1
    assert len(await index.by_words(["b", "b"], "picture", 10)) == 2
    assert await index.delete("a", [name_of(1)]) == 1
    assert await index.get("b", name_of(1)) is not None
    assert len(await index.nearest(["b"], vector(1), 10)) == 2


ODD_NAMES = ["", "*", "%", "a b", "\x00", "\ud800", "{a}", "a}b{", "x" * 201, "é", "'; --", "\n"]


@pytest.mark.parametrize("odd", ODD_NAMES)
async def test_no_name_or_scope_raises_or_widens(index: PictureIndex, odd: str) -> None:
    await index.put([record(1, "a"), record(2, "b"), record(3, "other")])
    if odd:
        assert await index.nearest([odd], vector(1), 10) == []
        assert await index.by_words([odd], "picture", 10) == []
        assert await index.count(odd) == 0
        assert await index.erase(odd) == 0
        assert await index.delete(odd, [name_of(1)]) == 0
        assert await index.get(odd, name_of(1)) is None
    assert {each.scope for each in await index.nearest([odd, "b"], vector(1), 10)} == {"b"}
    assert {each.scope for each in await index.by_words(["b", odd], "picture", 10)} == {"b"}
    assert await index.delete("a", [odd]) == 0
    assert list(await index.get_many([Key("a", odd), Key(odd, "x"), Key("a", name_of(1))])) == [
        None,
        None,
        record(1),
    ]
    assert await index.count() == 3


async def test_scopes_with_odd_characters_are_apart(index: PictureIndex) -> None:
    scopes = ["a", "{a}", "a}", "s:a", "a%", "a*", "a_", "%7Ba%7D", "tenant:a", "A", "a'\"\\"]
    await index.put([record(number, scope) for number, scope in enumerate(scopes)])
    for number, scope in enumerate(scopes):
        assert [each.key for each in await index.nearest([scope], vector(0), 99)] == [
            Key(scope, name_of(number))
        ]
        assert [each.key for each in await index.by_words([scope], "picture", 99)] == [
            Key(scope, name_of(number))
        ]
        assert await index.count(scope) == 1
    for scope in scopes:
        assert await index.erase(scope) == 1
    assert await index.count() == 0


async def test_words_in_another_scope_change_no_score(index: PictureIndex) -> None:
    await index.put([record(1, prompt="a red car"), record(2, prompt="a blue car")])
    before = await index.by_words(["a"], "red car", 10)
    await index.put([record(number, "b", prompt="red") for number in range(20)])
    assert await index.by_words(["a"], "red car", 10) == before


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        (Where(), range(8)),
        (Where(model="even"), (0, 2, 4, 6)),
        (Where(model='ev"en'), (1, 3)),
        (Where(model="none"), ()),
        (Where(lora=""), (0, 1, 2, 3, 4, 5)),
        (Where(lora="pixel"), (6, 7)),
        (Where(min_width=64, max_width=66), (0, 1, 2)),
        (Where(min_height=100), ()),
        (Where(created_from=1003.0), (3, 4, 5, 6, 7)),
        (Where(created_from=1003.0, created_to=1004.0), (3, 4)),
        (Where(seed=5), (5,)),
        (Where(seed=0), (0,)),
        (Where(source="imported"), (7,)),
        (Where(source="generated", lora="pixel"), (6,)),
        (Where(created_from=-5.5), range(8)),
        (Where(created_to=-5.5), ()),
        (Where(created_from=-1e300, created_to=1e300), range(8)),
        (Where(created_from=1e-9, created_to=1e18), range(8)),
        (Where(seed=2**63 - 1, max_width=2**63 - 1), ()),
        (Where(model='" or .w > 0 or .m == "'), ()),
        (Where(model="' OR '1'='1"), ()),
        (Where(model="\x00\ud800"), ()),
        (Where(lora="%s %(a)s"), ()),
        (Where(alive_at=2005.0), (6, 7)),
        (Where(alive_at=2007.0), ()),
        (Where(alive_at=2000.0, model="even", max_width=68), (2, 4)),
    ],
)
async def test_a_filter_lets_through_what_it_says(index: PictureIndex, where: Where, numbers: Any) -> None:
    await index.put(
        [
            record(
                number,
                model='ev"en' if number in (1, 3) else ("odd", "even")[number % 2 == 0],
                lora="pixel" if number >= 6 else "",
                width=64 + number,
                source="imported" if number == 7 else "generated",
                expires_at=2000.0 + number,
            )
            for number in range(8)
        ]
    )
    expected = {name_of(number) for number in numbers}
    assert {each.name for each in await index.nearest(["a"], vector(0), 100, where)} == expected
    assert {each.name for each in await index.by_words(["a"], "picture", 100, where)} == expected
    assert len(await index.nearest(["a"], vector(0), 1, where)) == min(1, len(expected))


async def test_what_has_expired_is_forgotten_the_oldest_first(index: PictureIndex) -> None:
    await index.put([record(number, "ab"[number % 2], expires_at=100.0 + number) for number in range(10)])
    assert await index.expire(99.0, 100) == 0
    assert await index.expire(104.0, 3) == 3
    assert await index.get("a", name_of(0)) is None
    assert await index.get("b", name_of(3)) is not None
    assert await index.expire(104.0, 3) == 2
    assert await index.expire(104.0, 3) == 0
    assert (await index.count(), await index.count("a"), await index.count("b")) == (5, 2, 3)
    assert len(await index.nearest(["a", "b"], vector(0), 100)) == 5
    await index.put([record(9, "b", expires_at=500.0)])
    assert await index.expire(400.0, 100) == 4, "the record's new time counts"


async def test_a_scope_is_erased_alone(index: PictureIndex) -> None:
    await index.put([record(number, "ab"[number % 2]) for number in range(12)])
    assert await index.erase("a") == 6
    assert await index.erase("a") == 0
    assert await index.erase("nobody") == 0
    assert (await index.count(), await index.count("a")) == (6, 0)
    assert await index.nearest(["a"], vector(0), 10) == []
    assert await index.by_words(["a"], "picture", 10) == []
    assert len(await index.by_words(["a", "b"], "picture", 10)) == 6
    await index.put([record(1, "a")])
    assert len(await index.nearest(["a"], vector(0), 10)) == 1


async def test_an_index_belongs_to_one_clip(engine: Engine, tmp_path: Path) -> None:
    async with opened(engine, tmp_path, CLIP, DIMENSIONS) as index:
        await index.put([record(1)])
    again = engine.make(tmp_path)
    await again.open(CLIP, DIMENSIONS)
    assert await again.count() == 1
    await again.close()
    for clip, dimensions in (("emoji-clip@2", DIMENSIONS), (CLIP, DIMENSIONS + 1)):
        other = engine.make(tmp_path)
        with pytest.raises(IndexMismatch) as raised:
            await other.open(clip, dimensions)
        assert CLIP in str(raised.value)
        assert clip in str(raised.value)
        assert "python -m search --rebuild" in str(raised.value)
        await other.close()
    fresh = engine.make(tmp_path)
    await fresh.open("emoji-clip@2", DIMENSIONS + 1, fresh=True)
    assert await fresh.count() == 0
    assert await fresh.nearest(["a"], vector(1), 5) == []
    await fresh.close()


async def test_nothing_is_lost_between_two_openings(engine: Engine, tmp_path: Path) -> None:
    async with opened(engine, tmp_path, CLIP, DIMENSIONS) as index:
        await index.put([record(number) for number in range(20)])
        await index.delete("a", [name_of(4)])
        await index.flush()
        await index.put([record(30)])
        await index.delete("a", [name_of(5)])
    again = engine.make(tmp_path)
    await again.open(CLIP, DIMENSIONS)
    expected = {name_of(number) for number in (*range(4), *range(6, 20), 30)}
    assert {each.name for each in await again.nearest(["a"], vector(4), 100)} == expected
    assert {each.name for each in await again.by_words(["a"], "picture", 100)} == expected
    assert await again.count() == 19
    await again.close()
    await again.close()


async def test_an_index_that_is_not_open_says_so(engine: Engine, tmp_path: Path) -> None:
    index = engine.make(tmp_path)
    with pytest.raises(StoreUnavailable):
        await index.nearest(["a"], vector(1), 1)
    with pytest.raises(StoreUnavailable):
        await index.put([record(1)])


async def test_the_event_loop_goes_on_meanwhile(index: PictureIndex) -> None:
    """Many calls at once, all answered; none blocks the others' loop."""
    await asyncio.gather(*(index.put([record(number)]) for number in range(40)))
    found = await asyncio.gather(*(index.nearest(["a"], vector(number), 1) for number in range(40)))
    assert [each[0].name for each in found] == [name_of(number) for number in range(40)]


async def test_a_query_while_pictures_come_and_go_finds_no_deleted_one(index: PictureIndex) -> None:
    await index.put([record(number) for number in range(60)])
    gone = set[str]()

    async def delete() -> None:
        for number in range(0, 60, 2):
            await index.delete("a", [name_of(number)])
            gone.add(name_of(number))

    async def query() -> None:
        while len(gone) < 30:
            before = set(gone)
            found = {each.name for each in await index.nearest(["a"], vector(1), 100)}
            found |= {each.name for each in await index.by_words(["a"], "picture", 100)}
            assert not found & before
            await asyncio.sleep(0)

    await asyncio.gather(delete(), query(), query())
    assert await index.count() == 30


async def test_stats_count(index: PictureIndex) -> None:
    await index.put([record(number) for number in range(10)])
    stats = await index.stats()
    assert stats.pictures == 10
    assert stats.disk_bytes + stats.memory_bytes > 0
