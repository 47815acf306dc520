"""What an index of pictures makes of any words, vectors and records, on every engine."""

from __future__ import annotations

import pytest

from contracts.pictures import Embedding
from search.index import MAX_COUNT, PictureIndex
from tests.search.engines import Engine
from tests.search.made import CLIP, DIMENSIONS, Exact, assert_same, name_of, record, vector

pytestmark = pytest.mark.anyio

ODD_WORDS = [
    "",
    " \t\n",
    '"',
    "'",
    "''; DROP TABLE pictures; --",
    '"picture" OR *',
    "picture*",
    "pict*",
    "NOT picture",
    "NEAR(picture 1)",
    "terms:picture",
    "-picture",
    "^picture",
    "(",
    ")",
    "{}[]|&!<->:@$%~\\",
    "@scope:{b}",
    "a & b | !c",
    "1xpicture",
    "\x00picture\x00",
    "\ud800"[:0] + "\uffff\U0010ffff",
    "🚀🚀",
    "картинка",
    "絵",
    "صورة",
    "चित्र",
    "รูปภาพ",
    "picture " * 12_500,
    "x" * 100_000,
    " ".join(map(str, range(20_000))),
]


async def test_no_query_by_words_raises_or_finds_more_than_its_words(index: PictureIndex) -> None:
    await index.put([record(1), record(2, "b"), record(3, prompt="絵 картинка صورة चित्र รูปภาพ")])
    right = Exact()
    right.put([record(1), record(2, "b"), record(3, prompt="絵 картинка صورة चित्र รูปภาพ")])
    for text in ODD_WORDS:
        found = await index.by_words(["a"], text, 10)
        expected = right.by_words(["a"], text, 10)
        assert_same(found, expected, expected, 1e-6)


async def test_a_prompt_of_any_text_is_indexed(index: PictureIndex) -> None:
    records = [record(number, prompt=text[:60_000]) for number, text in enumerate(ODD_WORDS)]
    assert list(await index.put(records)) == []
    assert await index.count() == len(records)
    assert [await index.get("a", each.name) for each in records] == records
    assert len(await index.by_words(["a"], "картинка", 10)) == 1
    assert await index.delete("a", [each.name for each in records]) == len(records)
    for word in ("picture", "x", "картинка", "絵"):
        assert await index.by_words(["a"], word, 10) == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00",
        vector(1)[:-1],
        vector(1)[:-2],
        vector(1) + b"\x00\x00",
        b"\x00" * 2 * DIMENSIONS,
        b"\x00\x7e" * DIMENSIONS,  # NaN
        b"\x00\x7c" * DIMENSIONS,  # infinity
        b"\x00\x7e" + vector(1)[2:],
    ],
    ids=["empty", "odd", "cut", "short", "long", "zero", "nan", "infinite", "one nan"],
)
async def test_a_vector_that_is_none_is_refused_and_finds_nothing(index: PictureIndex, raw: bytes) -> None:
    await index.put([record(1)])
    assert await index.nearest(["a"], raw, 10) == []
    broken = record(2).model_copy(update={"embedding": Embedding.of(CLIP, raw)})
    (refusal,) = await index.put([broken, record(3)])
    assert (refusal.scope, refusal.name) == ("a", name_of(2))
    assert "vector" in refusal.reason
    assert await index.count() == 2, "the other one is there"


async def test_a_vector_of_any_length_may_ask(index: PictureIndex, engine: Engine) -> None:
    import numpy as np

    await index.put([record(1), record(2)])
    for scale in (0.001, 0.5, 30.0):
        raw = (np.frombuffer(vector(2), "<f2") * scale).astype("<f2").tobytes()
        found = await index.nearest(["a"], raw, 1)
        assert found[0].name == name_of(2)
        assert found[0].score == pytest.approx(1.0, abs=2 * engine.slack)


async def test_a_record_that_cannot_be_kept_is_refused_alone(index: PictureIndex) -> None:
    wrong = [
        record(1).model_copy(update={"embedding": Embedding.of("another@1", vector(1))}),
        record(2).model_copy(update={"embedding": None}),
        record(3).model_copy(update={"embedding": Embedding(model=CLIP, vector="§")}),
        record(4).model_copy(update={"name": ""}),
        record(5).model_copy(update={"name": "a\x00b"}),
        record(6).model_copy(update={"scope": "a b"}),
        record(7).model_copy(update={"scope": "{a}\n"}),
        record(8).model_copy(update={"seed": 2**63}),
        record(9).model_copy(update={"width": 2**31}),
    ]
    refused = await index.put([record(0), *wrong, record(10)])
    assert [(each.scope, each.name) for each in refused] == [(each.scope, each.name) for each in wrong]
    assert all(each.reason for each in refused)
    assert CLIP in refused[0].reason
    assert "another@1" in refused[0].reason
    assert await index.count() == 2


async def test_counts_are_bounded(index: PictureIndex) -> None:
    await index.put([record(number) for number in range(5)])
    for count, expected in ((0, 0), (-1, 0), (1, 1), (5, 5), (MAX_COUNT + 1, 5), (10**12, 5)):
        assert len(await index.nearest(["a"], vector(0), count)) == expected
        assert len(await index.by_words(["a"], "picture", count)) == expected
