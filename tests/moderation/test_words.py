"""Banned words: found in every disguise, and in no word that merely looks alike."""

from __future__ import annotations

import itertools
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.normalise import fold, runs, skeleton
from moderation.policy import FOLDER, InvalidPolicy, parse
from moderation.word_list import plural, read_list
from moderation.words import Banned, WordMatcher, compiled

LISTS = FOLDER / "lists"
POLICY = """
name: shop
version: 1
words:
  lists:
    - {file: 'builtin:lists/weapons.en.txt', category: weapons, language: en}
  exceptions: ['builtin:lists/harmless.en.txt']
rules: {weapons: {words: block}}
"""


@pytest.fixture(scope="module")
def weapons() -> WordMatcher:
    matcher = compiled(parse(POLICY, "p"))
    assert matcher is not None
    return matcher


def listed(tmp_path: Path, text: str, *, plurals: bool = False) -> WordMatcher:
    path = tmp_path / "list.txt"
    path.write_text(text, encoding="utf-8")
    return WordMatcher([(read_list(path, plurals=plurals), Banned("custom", "list"))])


DISGUISES: dict[str, Callable[[str], str]] = {
    "capitals": str.upper,
    "full width": lambda word: "".join(chr(ord(each) + 0xFEE0) for each in word),
    "zero width": "\u200b".join,
    "accents": lambda word: unicodedata.normalize("NFC", "\u0301".join(word) + "\u0307"),
    "other scripts": lambda word: word.translate(str.maketrans("aeopcsi", "аеорсѕі")),
    "leet": lambda word: word.translate(str.maketrans("oieast", "01345+")),
    "signs": lambda word: word.translate(str.maketrans("ais", "@!$")),
    "spaces": " ".join,
    "dots": ".".join,
    "hyphens": lambda word: f"{word[:2]}-{word[2:]}",
    "cut in two": lambda word: f"{word[:3]} {word[3:]}",
    "stretched": lambda word: word[:2] + word[1] * 3 + word[2:],
    "doubled": lambda word: "".join(each * 2 for each in word),
    "starred": lambda word: f"{word[:2]}*{word[3:]}",
    "i for l": lambda word: word.replace("l", "I") if "l" in word else word.upper(),
    "letters in boxes": lambda word: "".join(chr(0x1F170 + ord(each) - 97) for each in word),
}


@pytest.mark.parametrize("name", DISGUISES)
@pytest.mark.parametrize("word", ["sword", "daggers", "pistol", "grenade"])
def test_a_disguise_changes_nothing(weapons: WordMatcher, name: str, word: str) -> None:
    for frame in ("{}", "a {} on a red background", "a knight, ({})!"):
        found = weapons.find("a", frame.format(DISGUISES[name](word)))
        assert [(each.layer, each.category, each.score) for each in found] == [("words", "weapons", 1.0)], (
            frame
        )


@pytest.mark.parametrize(
    "text",
    [
        "bows and arrows",
        "bow & arrow",
        "b0w and arrow",
        "a b o w a n d a r r o w",
        "a n d a g g e r",
        "xx.s.w.o.r.d",
        "8@yon3+!",
        "x " * 300 + "s w o r d",
        "a water pistol beside a pistol",
        "sword-fight",
        "the knight's swords",
    ],
)
def test_phrases_plurals_and_parts_are_found(weapons: WordMatcher, text: str) -> None:
    assert weapons.find("a", text)


@pytest.mark.parametrize(
    "text",
    [
        "a water pistol",
        "a g l u e g u n",
        "two water pistols",
        "a w@ter p1stol",
        "a swordfish",
        "a sward of grass",
        "the pistil of a flower",
        "riffle shuffle",
        "Bombay",
        "a bowl and an arrow",
        "begun",
        "Mother's words",
        "in the 1980s words",
        "the s word",
        "a b c d e f g h i j k l m n o p q r s t u v w x y z",
        "100$ for 5 gums",
        "R2-D2 and C-3PO",
        "burgundy",
        "gu n",
        "a hot chocolate bomb",
        "",
        "*** ### !!!",
    ],
)
def test_what_looks_alike_is_left_alone(weapons: WordMatcher, text: str) -> None:
    assert weapons.find("a", text) == ()


def test_a_finding_names_the_list_and_not_the_word(weapons: WordMatcher) -> None:
    (found,) = weapons.find("a", "a dagger and a sword")
    assert found.source.startswith("weapons.en.txt@")
    assert "dagger" not in found.model_dump_json()


def test_a_list_may_be_for_some_tenants(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("tulip\n")
    matcher = WordMatcher([(read_list(path, plurals=False), Banned("custom", "own", frozenset({"acme"})))])
    assert matcher.find("acme", "a tulip")
    assert not matcher.find("other", "a tulip")


@pytest.mark.parametrize(
    ("entry", "text", "found"),
    [
        ("тюльпан", "красный ТЮЛЬПАН", True),
        ("тюльпан", "красный тюльпанный", False),
        ("郁金香", "一朵红色的郁金香花", True),
        ("郁金香", "一朵 郁 金 香", True),
        ("tulipán", "un TULIPAN rojo", True),
        ("τουλίπα", "μια κόκκινη τουλιπα", True),
    ],
)
def test_lists_of_any_script(tmp_path: Path, entry: str, text: str, found: bool) -> None:
    assert bool(listed(tmp_path, entry + "\n").find("a", text)) is found


def test_plain_words_are_not_bent(tmp_path: Path) -> None:
    matcher = listed(tmp_path, "ass\nloop\n")
    assert not matcher.find("a", "as lop lops a s")
    assert matcher.find("a", "asss")
    assert matcher.find("a", "l00p")


def test_plural_forms_are_by_choice(tmp_path: Path) -> None:
    assert listed(tmp_path, "tulip\n", plurals=True).find("a", "tulips")
    assert not listed(tmp_path, "tulip\n").find("a", "tulips")
    assert [plural(noun) for noun in ("gun", "cutlass", "knife", "berry", "key", "guns")] == [
        "guns",
        "cutlasses",
        "knives",
        "berries",
        "keys",
        "guns",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"sword\n\xff\xfe\n", "line 2 is not UTF-8"),
        (b"sword\n\x00\x01\n", "line 2 holds control characters"),
        (b"sword\n\n!!!\n", "line 3 is too short"),
        (b"sword\na\n", "line 2 is too short"),
        (b"x" * 101, "line 1 is longer than 100 characters"),
        (b"# nothing\n", "has no entries"),
    ],
)
def test_a_poisoned_list_is_named_with_its_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidPolicy) as refused:
        read_list(path, plurals=False)
    assert str(refused.value).startswith(f"{path}")
    assert told in str(refused.value)


@given(st.text(max_size=300))
def test_any_text_can_be_searched(weapons: WordMatcher, text: str) -> None:
    weapons.find("a", text)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=100))
def test_a_skeleton_has_a_count_for_each_letter(text: str) -> None:
    once = fold(text)
    assert "\u200b" not in once
    assert len(skeleton(once)) == len(runs(once))


def test_long_texts_take_time_by_their_length(weapons: WordMatcher) -> None:
    for unit in ("s ", "sword", "s.", "**s", "$0", "swwoo "):
        costs = []
        for length in (4_000, 32_000):
            text = unit * (length // len(unit))
            best = min(_cpu_s(weapons, text) for _ in range(3))
            costs.append(best)
        assert costs[1] < max(costs[0], 0.001) * 8 * 6, unit


def _cpu_s(matcher: WordMatcher, text: str) -> float:
    begun = time.process_time()
    matcher.find("a", text)
    return time.process_time() - begun


def test_every_entry_that_we_ship_finds_itself(weapons: WordMatcher) -> None:
    shipped = read_list(LISTS / "weapons.en.txt", plurals=True)
    assert all(weapons.find("a", " ".join(phrase)) for phrase in shipped.phrases)
    harmless = read_list(LISTS / "harmless.en.txt", plurals=False)
    assert not any(weapons.find("a", " ".join(phrase)) for phrase in harmless.phrases)
    assert len(list(itertools.chain(shipped.phrases))) > 100
