"""The prompt-hash key: equal keys mean equal pixels, and everything that changes pixels changes the key."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from cache.cache_key import derived_seed, normalise_text, request_key, tenant_scope
from contracts.models import LoraSpec
from contracts.requests import MAX_SEED, GenerationRequest, Lora
from tests.store.test_others import spec

REQUEST = GenerationRequest(
    model="m", prompt="a red apple", width=64, height=64, num_inference_steps=1, guidance_scale=0.0, seed=7
)
SPEC = spec("m")
# Pieces of texts whose lower case, order of marks or composition depends on who normalises first, or by which Unicode.
CONTESTED = [
    "\u03aa\u0301",
    "\u03ab\u0301",
    "\u0130\u0301",
    "\u1fbf\u03aa\u0300",
    "\u0628\u064e\u08d3",
    "\u0628\u08d3\u064e",
    "\U00011935\U00011930",
    "\U00011938",
    "\U000105d2\u0307",
    "\u13a0",
]
TOKENIZER = CLIPTokenizer.from_pretrained(Path(__file__).parents[2] / "models" / "emoji-turbo" / "tokenizer")

# Letters whose case, width or composition is awkward, spaces of all kinds, special tokens, and anything else.
awkward = st.text(
    st.one_of(
        st.sampled_from("aAéÉe\u0301İıßΣςσǅﬁ\t\n \u00a0\u2003\u3000\x1cKÅ|<>"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=12,
)
texts = st.lists(
    st.one_of(awkward, st.sampled_from([*CONTESTED, "<|startoftext|>", "<|endoftext|>", "<|EndOfText|>"])),
    max_size=4,
).map("".join)


def key(**changes: Any) -> str:
    return request_key(REQUEST.model_copy(update=changes), SPEC, "tenant:public")


def seen(text: str) -> str:
    """What the tokenizer's own normaliser makes of `text`. White space at the ends makes no token."""
    return str(TOKENIZER.backend_tokenizer.normalizer.normalize_str(text)).strip(" ")


def every_character() -> Iterator[str]:
    return (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)


@settings(deadline=None)
@given(texts)
@example("\u03aa\u0301")
@example("\u0628\u08d3\u064e")
def test_normalising_keeps_the_tokens(text: str) -> None:
    assert TOKENIZER(text).input_ids == TOKENIZER(normalise_text(text)).input_ids


@settings(deadline=None)
@given(texts)
@example("\u03aa\u0301")
@example("\u03ab\u0301")
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once


def test_every_character_keeps_its_tokens() -> None:
    for character in every_character():
        once = normalise_text(character)
        assert seen(once) == seen(character), ascii(character)
        assert normalise_text(once) == once, ascii(character)


def test_every_mark_keeps_its_place_among_marks() -> None:
    """Marks behind one letter are put in order by their combining classes: each mark against one mark of each class."""
    marks = [character for character in every_character() if unicodedata.combining(character)]
    one_of_each = {unicodedata.combining(mark): mark for mark in reversed(marks)}.values()
    for mark in marks:
        for other in one_of_each:
            for text in (f"A{mark}{other}", f"A{other}{mark}", f"\u0399{mark}\u0308{other}"):
                once = normalise_text(text)
                assert seen(once) == seen(text), ascii(text)
                assert normalise_text(once) == once, ascii(text)


def test_every_composition_keeps_its_tokens() -> None:
    """Each composed character, its parts, and its parts in capitals before one more mark."""
    for character in every_character():
        parts = unicodedata.normalize("NFD", character)
        if parts == character:
            continue
        capitals = [part.upper() for part in (character, parts)]
        for text in (
            parts,
            *capitals,
            *(f"{each}{mark}" for each in capitals for mark in "\u0300\u0301\u0323"),
        ):
            once = normalise_text(text)
            assert seen(once) == seen(text), ascii(text)
            assert normalise_text(once) == once, ascii(text)


def test_no_later_symbol_is_ordered_or_composed() -> None:
    """Texts with emoji are normalised, for which this has to hold in the newest Unicode that is known here."""
    whole_and_parts = ((each, unicodedata.normalize("NFD", each)) for each in every_character())
    in_compositions = {part for whole, parts in whole_and_parts if parts != whole for part in parts}
    for character in every_character():
        if (
            unicodedata.category(character) in ("So", "Sk")
            and unicodedata.ucd_3_2_0.category(character) == "Cn"
        ):
            assert not unicodedata.combining(character)
            assert character not in in_compositions


def test_texts_that_only_a_newer_unicode_calls_equal_have_keys_of_their_own() -> None:
    assert key(prompt="\u0628\u064e\u08d3") != key(prompt="\u0628\u08d3\u064e")
    assert key(prompt="\U00011935\U00011930") != key(prompt="\U00011938")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A  Red\tAPPLE ", "a red apple"),
        ("caf\u00e9", "cafe\u0301"),
        ("a\u3000b", "a b"),
        ("A  Red 🍎", "a red 🍎"),
    ],
)
def test_what_the_tokenizer_does_not_tell_apart_has_one_key(one: str, other: str) -> None:
    assert key(prompt=one) == key(prompt=other)


def test_everything_that_changes_pixels_changes_the_key() -> None:
    keys = [
        key(),
        key(prompt="a red apple."),
        key(model="n"),
        key(width=128),
        key(height=128),
        key(num_inference_steps=2),
        key(guidance_scale=0.5),
        key(guidance_scale=2.0),
        key(guidance_scale=2.0, negative_prompt="blurred"),
        key(seed=8),
        key(num_images=2),
        key(output_format="jpeg"),
        key(output_format="jpeg", output_quality=50),
        key(output_format="webp"),
        key(output_format="webp", lossless=True),
        key(embed_metadata=True),
        key(embed_metadata=True, prompt="A Red Apple"),
        key(lora=Lora(name="a")),
        key(lora=Lora(name="b")),
        key(lora=Lora(name="a", scale=0.5)),
        request_key(
            REQUEST.model_copy(update={"lora": Lora(name="a")}),
            SPEC.model_copy(update={"loras": (LoraSpec(name="a", revision="2"),)}),
            "tenant:public",
        ),
        request_key(REQUEST, SPEC, "tenant:other"),
        request_key(REQUEST, spec("m", "2"), "tenant:public"),
        request_key(REQUEST, SPEC.model_copy(update={"dtype": "float16"}), "tenant:public"),
    ]
    assert len(set(keys)) == len(keys)


def test_what_changes_no_pixels_changes_no_key() -> None:
    assert key(negative_prompt="blurred") == key(), "without guidance a negative prompt is not read"
    assert key(guidance_scale=-0.0) == key()


def test_parts_cannot_run_into_each_other() -> None:
    assert key(prompt='a","seed":1') != key(prompt="a", seed=1)
    guided = {"guidance_scale": 2.0}
    assert key(prompt="ab", negative_prompt="c", **guided) != key(prompt="a", negative_prompt="bc", **guided)


def test_the_key_stays_what_it_is() -> None:
    """A change of this value throws every deployed cache away: then raise the schema version, and say so."""
    assert key() == "b6e6a1606442cb7e981c941d4886846e24a2a581b2fc6c9831382c75537956d1"


def test_a_derived_seed_depends_on_all_but_the_seed() -> None:
    scope = "tenant:public"
    seed = derived_seed(REQUEST, SPEC, scope)
    assert 0 <= seed <= MAX_SEED
    assert derived_seed(REQUEST.model_copy(update={"seed": 99}), SPEC, scope) == seed
    assert derived_seed(REQUEST.model_copy(update={"prompt": "A red  apple"}), SPEC, scope) == seed
    assert derived_seed(REQUEST.model_copy(update={"prompt": "a green apple"}), SPEC, scope) != seed


def test_another_format_is_the_same_picture() -> None:
    seed = derived_seed(REQUEST, SPEC, "tenant:public")
    for changes in (
        {"output_format": "webp"},
        {"output_format": "jpeg", "output_quality": 3},
        {"embed_metadata": True},
    ):
        assert derived_seed(REQUEST.model_copy(update=changes), SPEC, "tenant:public") == seed


def test_scopes_cannot_be_forged() -> None:
    assert tenant_scope("a", shared=False) != tenant_scope("b", shared=False)
    assert tenant_scope("a", shared=True) == tenant_scope("b", shared=True)
    assert tenant_scope("shared", shared=False) != tenant_scope("x", shared=True)


def test_a_solver_with_other_steps_than_were_named_has_keys_of_its_own() -> None:
    assert key(denoising_steps=3) != key()
    assert key(denoising_steps=3) != key(denoising_steps=5)


def test_the_folder_of_a_picture_to_start_from_is_no_part_of_the_key() -> None:
    """Keys and seeds of before the pictures had a folder stay as they were."""
    name = f"{'0' * 64}.png"
    before, now = (
        REQUEST.model_copy(update={"init_image": each, "strength": 0.5}) for each in (name, f"inputs/{name}")
    )
    assert request_key(before, spec("m"), "t") == request_key(now, spec("m"), "t")
    assert derived_seed(before, spec("m"), "t") == derived_seed(now, spec("m"), "t")
