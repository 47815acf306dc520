"""The prompt-hash key: equal keys mean equal pixels, and everything that changes pixels changes the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from cache.keys import derived_seed, normalise_text, request_key, tenant_scope
from contracts.jobs import MAX_SEED, GenerationRequest, Lora
from contracts.models import LoraSpec
from tests.cache.test_others import spec

REQUEST = GenerationRequest(
    model="m", prompt="a red apple", width=64, height=64, num_inference_steps=1, guidance_scale=0.0, seed=7
)
SPEC = spec("m")
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
    st.one_of(awkward, st.sampled_from(["<|startoftext|>", "<|endoftext|>", "<|EndOfText|>"])), max_size=4
).map("".join)


def key(**changes: Any) -> str:
    return request_key(REQUEST.model_copy(update=changes), SPEC, "tenant:public")


@given(texts)
def test_normalising_keeps_the_tokens(text: str) -> None:
    assert TOKENIZER(text).input_ids == TOKENIZER(normalise_text(text)).input_ids


@given(texts)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once


@pytest.mark.parametrize(
    ("one", "other"),
    [("A  Red\tAPPLE ", "a red apple"), ("caf\u00e9", "cafe\u0301"), ("a\u3000b", "a b")],
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
    assert key() == "62617d9dd7f4da0cc1d6f034497525827f8b61c715de7523b4c0c61018801c42"


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
