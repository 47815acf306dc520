"""What a request carries beside its parameters."""

from __future__ import annotations

import json

import pytest

from contracts.documents import SCHEMA
from contracts.moderation import Finding, State, Verdict
from contracts.requests import GenerationRequest
from views.job import RequestView

FINDING = Finding(layer="words", category="weapons", source="list")


def request(**fields: object) -> GenerationRequest:
    sides = {"width": 64, "height": 64, "num_inference_steps": 1, "guidance_scale": 0.0, "seed": 1}
    return GenerationRequest.model_validate({"model": "m", "prompt": "a knight", **sides, **fields})


def verdict(state: State) -> Verdict:
    return Verdict(state=state, categories=("weapons",), policy="shop@1", findings=(FINDING,))


def test_without_a_policy_nothing_is_written() -> None:
    assert "moderation" not in json.loads(request().model_dump_json())
    assert not request().held


@pytest.mark.parametrize(("state", "held"), [("tagged", False), ("in_review", True)])
def test_an_older_worker_takes_only_what_it_need_not_hold(state: State, held: bool) -> None:
    judged = request().judged(verdict(state))
    again = GenerationRequest.model_validate_json(judged.model_dump_json())
    assert (again.moderation, again.held) == (verdict(state), held)
    assert again.min_schema == (2 if held else 1)
    assert again.readable
    assert SCHEMA >= 2


def test_an_owner_sees_nothing_of_it() -> None:
    view = RequestView.model_validate(request().judged(verdict("tagged")), from_attributes=True)
    assert "weapons" not in view.model_dump_json()
