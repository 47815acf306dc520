"""Warnings: what a request asks for and the model does not read, in sentences."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from contracts.requests import GenerationRequest
from views.warnings import advice, header

REQUEST = GenerationRequest(
    model="m", prompt="a red apple", width=64, height=64, num_inference_steps=1, guidance_scale=0.0, seed=7
)


def said(**changes: Any) -> list[str]:
    return list(advice(REQUEST.model_copy(update=changes)))


def test_a_plain_request_has_no_warnings() -> None:
    assert said() == []
    assert said(guidance_scale=2.0, negative_prompt="blurred") == []
    assert said(negative_prompt=" ") == []
    for prompt in (
        "a clock (ten past nine), red",
        "12:30 o'clock",
        "ratio 16:9",
        "I <3 you",
        "a :) b",
        "a clock (12:30)",
        "a poster (16:9)",
        "they won 3:2)",
        "f(x)",
    ):
        assert said(prompt=prompt) == [], prompt


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0])
def test_a_negative_prompt_that_is_not_read_is_said(guidance: float) -> None:
    (warning,) = said(negative_prompt="blurred (x:1.5)", guidance_scale=guidance)
    assert warning.startswith(f"negative_prompt is not read: guidance_scale is {guidance:g}, ")


@pytest.mark.parametrize(
    "text",
    ["a (red:1.5) apple", "(red : .5)", "(a, b:-1.25)", "((red)) apple", "(((x)))", "(x:1.)", "(a (b:2) c)"],
)
def test_weights_are_said_in_whichever_text_is_read(text: str) -> None:
    (warning,) = said(prompt=text)
    assert warning.startswith("prompt holds weights")
    assert said(negative_prompt=text, guidance_scale=2.0) == [warning.replace("prompt", "negative_prompt", 1)]


@pytest.mark.parametrize(
    "text", ["<lora:pixel:0.8>", "a <LoRA:pixel> cat", "< lora : pixel >", "<lyco:x:1>", "<hypernet:x>"]
)
def test_tags_of_adapters_are_said(text: str) -> None:
    (warning,) = said(prompt=text)
    assert warning.startswith("prompt holds a tag")


def test_a_long_text_is_looked_through_at_once() -> None:
    """Time grows with the length alone: twenty thousand characters of what almost matches, in each way."""
    for part in ("(", "((", "((a", ":", ": ", ":1", "(:1 ", "<lora", "< ", ":" + " " * 99, ":" + "1" * 99):
        begun = time.process_time()
        said(prompt=part * (20_000 // len(part)))
        assert time.process_time() - begun < 1.0, part


def test_a_header_is_ascii_and_absent_without_warnings() -> None:
    assert header([]) == {}
    (value,) = header(["prompt: ärgerlich\n"]).values()
    assert value.isascii()
    assert "\n" not in value
    assert json.loads(value) == ["prompt: ärgerlich\n"]
