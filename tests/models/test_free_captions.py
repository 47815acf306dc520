"""Free captions: what the training writes, what it leaves out, and what the benchmark asks for."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from benchmarks import free_prompts
from models.recipe import captions, common, data, free_captions
from models.recipe.concepts import concept_table

FOLDER = Path(__file__).parents[2] / "models" / "emoji-turbo"
CONCEPTS = tuple(data.Concept(name, f"{i:x}", ()) for i, (_, name) in enumerate(concept_table()))


@pytest.fixture(scope="module")
def composer() -> free_captions.FreeComposer:
    return free_captions.FreeComposer(CONCEPTS, CLIPTokenizer.from_pretrained(FOLDER / "tokenizer"))


@pytest.fixture(scope="module")
def requests(composer: free_captions.FreeComposer) -> list[captions.Request]:
    return composer.batch(np.random.default_rng(0), 3000, 0)


@pytest.mark.parametrize(
    ("thing", "many"),
    [
        ("cat", "cats"), ("red apple", "red apples"), ("cherries", "cherries"), ("fox", "foxes"), ("wolf", "wolves"),
        ("strawberry", "strawberries"), ("mouse", "mice"), ("key", "keys"), ("glasses", "glasses"), ("leaf", "leaves"),
        ("dress", "dresses"), ("giraffe", "giraffes"), ("hoof", "hoofs"),
    ],
)  # fmt: skip
def test_plurals_read_as_english(thing: str, many: str) -> None:
    assert free_captions.plural(thing) == many


def test_a_slip_changes_at_most_two_letters_of_one_long_word() -> None:
    rng = np.random.default_rng(0)
    slips = {free_captions.misspell(rng, "red apple") for _ in range(300)}
    assert len(slips) > 30
    for slip in slips:
        first, word = slip.split(" ")
        assert first == "red"
        assert word[0] == "a"
        assert abs(len(word) - 5) <= 1
        assert sum((Counter("apple") - Counter(word)).values()) <= 1
    assert free_captions.misspell(rng, "cat") == "cat"


def test_training_leaves_the_reserved_captions_out(requests: list[captions.Request]) -> None:
    plain = re.compile(r"^(an? )?(picture of |emoji of )?")
    free = [r for r in requests if free_captions.reserved(r.caption)]
    names = {concept.name for concept in CONCEPTS}
    for request in free:
        words = plain.sub("", re.split(r" on |, ", request.caption)[0])
        words = re.sub(r"^(an? )?(small |large )?", "", words)
        assert words in names, f"a reserved caption that is no plain one: {request.caption}"


def test_no_thing_is_cut_off_by_the_limit_of_tokens(
    composer: free_captions.FreeComposer, requests: list[captions.Request]
) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
    checked = 0
    for request in requests:
        name = composer.concepts[request.concept].name.lower()
        head, found, _ = request.caption.lower().rpartition(name)
        if found:
            checked += 1
            assert len(tokenizer(head + name).input_ids) <= common.TOKENS, request.caption
    assert checked > 1500


def test_captions_are_as_free_as_people_are(requests: list[captions.Request]) -> None:
    texts = [request.caption for request in requests]
    for pattern in (r"\btwo\b", r"\bhappy\b", r"\bplease\b", r"\. [a-z]", r"^[^a]", r"\btiny\b", r"!$"):
        assert any(re.search(pattern, text) for text in texts), pattern
    assert len(set(texts)) > 2500


def test_a_word_of_size_sets_the_layout(requests: list[captions.Request]) -> None:
    names = [layout.name for layout in data.LAYOUTS]
    before = re.compile(r"(?<!too )\b(" + "|".join(free_captions.SIZES) + r")\b")
    sized = [(r, found[1]) for r in requests if (found := before.search(r.caption))]
    assert len(sized) > 50
    for request, word in sized:
        assert request.layout is not None
        assert names[request.layout] == free_captions.SIZES[word]


def test_the_plain_form_names_thing_colour_and_size(composer: free_captions.FreeComposer) -> None:
    request = captions.Request(0, 7, None, 1, "whatever")
    name = CONCEPTS[0].name
    assert composer.plain(request) == f"a small {name} on a blue background"


def test_the_benchmark_asks_300_things_that_no_training_saw() -> None:
    asked = free_prompts.prompts(CONCEPTS)
    assert asked == free_prompts.prompts(CONCEPTS)
    assert len(asked) == free_prompts.COUNT == sum(count for count, _ in free_prompts.KINDS.values())
    assert all(free_captions.reserved(prompt.text) for prompt in asked)
    assert len({prompt.text for prompt in asked}) == len({prompt.concept for prompt in asked}) == 300


def test_most_words_of_the_benchmark_are_strange_to_the_training() -> None:
    words, trained = free_prompts.words(), free_captions.training_words()
    assert len(words - trained) >= 0.5 * len(words)
    sentences = " ".join([*free_prompts.OPENERS, *free_prompts.CLOSERS, *free_prompts.SENTENCES]).lower()
    around = set(re.findall(r"[a-z]+", sentences))
    assert len(around - trained) >= 0.5 * len(around)


def test_no_word_of_the_benchmark_is_in_the_name_of_a_thing() -> None:
    known = free_captions.known_words(CONCEPTS)
    assert not [word for word in free_prompts.MODIFIERS if word in known]
